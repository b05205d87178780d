"""URLs of the provider in response headers, in the form in which they lead back through the endpoint.

A client that follows a URL of the provider would leave Strake, and clients that authenticate with another header than
Authorization would send their Strake token there. An upload URL would even work without any token.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from credentials.models import endpoint_url
from proxy.access import upload_capability
from proxy.access.route import Route
from proxy.access.upload_capability import PATH_PREFIX, RESERVED, Upload
from proxy.errors import BadPath, InvalidToken
from proxy.http.names import LOCATIONS, UPLOAD_URLS, Headers
from proxy.http.target import check_path
from proxy.upstream.origin import Origin, destination

_UPLOAD_STATUS = b"x-goog-upload-status"
_ENDED = frozenset({b"cancelled", b"final"})
# Google's other APIs put an upload URL into Location: https://cloud.google.com/storage/docs/resumable-uploads
_UPLOAD_ID = re.compile(rb"[?&]upload_id=", re.IGNORECASE)
_SECRET_LENGTH = 16  # of a query parameter that may be a secret

# Visible ASCII without the backslash, which some clients read as a slash.
_PLAIN = re.compile(rb"[!-\[\]-~]+\Z")
_ABSOLUTE = re.compile(rb"(?:(https?):)?//(\[[0-9a-f:.]+\]|[^/?#:@\[\]]+)(?::([0-9]{0,5}))?([/?#].*)?\Z", re.IGNORECASE)
_PATH = re.compile(rb"[^?#]*")
_LINK_TARGET = re.compile(rb"<([^<>]*)>")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class _Site(NamedTuple):
    """A destination, and the URL of the endpoint in front of it, whose path is `prefix`."""

    origin: Origin
    base_path: bytes
    endpoint_url: bytes
    prefix: bytes


def target_on(url: bytes, origin: Origin) -> bytes:
    """Return the request target of an upload URL. Raises `InvalidToken` if the URL is on another origin."""
    absolute = _ABSOLUTE.match(url) if _PLAIN.match(url) else None
    if absolute is None or not _is_origin(absolute, origin):
        raise InvalidToken
    rest: bytes = absolute[4] or b""
    return rest if rest.startswith(b"/") else b"/" + rest


async def map_urls(
    headers: Headers, route: Route, *, subdomain: str, token_digest: bytes, upload: Upload | None = None
) -> Headers:
    """Return response headers whose URLs of the provider lead through the endpoint.

    URLs of other sites and relative URLs stay as they are. Dropped are the upload URLs of other sites, URLs of the
    destination that the endpoint cannot reach, and what repeats the id of an upload. `upload` is the one that the
    request was for. Its URL keeps its secret.

    Raises `StoreUnavailable`, and `InvalidToken` if the token has been deleted meanwhile.
    """
    url = endpoint_url(subdomain)
    site = _Site(*destination(route.destination_url)[::2], url.encode(), urlsplit(url).path.encode())
    uploads = {} if upload is None else {upload.url: upload}
    urls = [_on_site(value, site) for name, value in headers if _is_upload_url(name.lower(), value)]
    new = [found for found in dict.fromkeys(urls) if found is not None and found not in uploads]
    if new and route.token_id is not None:
        made = await upload_capability.create(route.endpoint_id, route.token_id, token_digest, new)
        uploads |= {one.url: one for one in made}
    ids = [part for found in uploads for part in _ids(found)]
    mapped = [
        (name, value)
        for name, original in headers
        if (value := _mapped(name.lower(), original, site, uploads)) is not None
        and not any(part in value for part in ids)
    ]
    if upload is not None and any(name.lower() == _UPLOAD_STATUS and value in _ENDED for name, value in headers):
        await upload_capability.forget(upload)
    return mapped


def _mapped(name: bytes, value: bytes, site: _Site, uploads: dict[bytes, Upload]) -> bytes | None:
    """Return the value of a header for the client, or None if it may not pass. `name` is in lower case."""
    if _is_upload_url(name, value):
        upload = uploads.get(_on_site(value, site) or b"")
        return None if upload is None else site.endpoint_url + PATH_PREFIX + upload.secret.encode()
    if name in LOCATIONS:
        return _through_endpoint(value, site)
    if name == b"link":
        if any(_through_endpoint(target, site) is None for target in _LINK_TARGET.findall(value)):
            return None
        return _LINK_TARGET.sub(lambda match: b"<%b>" % (_through_endpoint(match[1], site) or b""), value)
    return value


def _through_endpoint(url: bytes, site: _Site) -> bytes | None:
    """Return a URL that leads through the endpoint, or None if no request through the endpoint reaches it."""
    absolute = _ABSOLUTE.match(url) if _PLAIN.match(url) else None
    if absolute is not None and _is_origin(absolute, site.origin):
        rest, prefix = absolute[4] or b"", site.endpoint_url
    elif absolute is None and url.startswith(b"/") and not url.startswith(b"//") and _PLAIN.match(url):
        rest, prefix = url, site.prefix
    else:
        return url
    path, base_path = _PATH.findall(rest)[0], site.base_path
    if path != base_path and not path.startswith(base_path + b"/"):
        return None
    try:
        check_path(path or b"/")
    except BadPath:
        return None
    inner = rest[len(base_path) :]
    return None if inner.startswith(RESERVED) else prefix + inner or b"/"


def _on_site(url: bytes, site: _Site) -> bytes | None:
    """Return a URL without its fragment, or None if it is not on the destination's origin."""
    absolute = _ABSOLUTE.match(url) if _PLAIN.match(url) else None
    if absolute is None or not _is_origin(absolute, site.origin):
        return None
    return url.partition(b"#")[0]


def _is_origin(absolute: re.Match[bytes], origin: Origin) -> bool:
    scheme = absolute[1].decode().lower() if absolute[1] else origin.scheme
    host = absolute[2].decode().lower().removeprefix("[").removesuffix("]").removesuffix(".")
    port = int(absolute[3]) if absolute[3] else _DEFAULT_PORTS[scheme]
    return (scheme, host, port) == origin


def _is_upload_url(name: bytes, value: bytes) -> bool:
    return name in UPLOAD_URLS or (name == b"location" and _UPLOAD_ID.search(value) is not None)


def _ids(url: bytes) -> set[bytes]:
    """The parts of an upload URL that would reveal it. Google repeats one in X-GUploader-UploadID."""
    values = [parameter.partition(b"=")[2] for parameter in url.partition(b"?")[2].split(b"&")]
    return {form for value in values if len(value) >= _SECRET_LENGTH for form in (value, unquote_to_bytes(value))}
