"""Which headers cross the proxy, in both directions."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote_to_bytes

from accounts import tokens
from credentials.vault.sealing import wipe
from proxy.access.bearer_auth import CREDENTIAL_HEADERS
from proxy.http.response import PROTECTION
from proxy.server.asgi import Headers

# RFC 9110 §7.6.1, and obsolete ones that are still in use.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# About the client, its network and its browser. Cookies would reveal the dashboard session to the provider, and headers
# that override the path or the method would circumvent a token's limits.
_ABOUT_THE_CLIENT = frozenset(
    {
        b"cf-connecting-ip",
        b"cookie",
        b"expect",
        b"forwarded",
        b"host",
        b"true-client-ip",
        b"via",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-forwarded",
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-forwarded-for",
        b"x-original-url",
        b"x-real-ip",
        b"x-rewrite-url",
    }
)
_NOT_FOR_UPSTREAM = HOP_BY_HOP | _ABOUT_THE_CLIENT | CREDENTIAL_HEADERS
# A provider must not set cookies, policies or alternative routes for Strake's origin.
_NOT_FOR_CLIENT = HOP_BY_HOP | frozenset(
    {
        b"alt-svc",
        b"clear-site-data",
        b"content-security-policy",
        b"content-security-policy-report-only",
        b"cross-origin-resource-policy",
        b"nel",
        b"public-key-pins",
        b"refresh",
        b"report-to",
        b"reporting-endpoints",
        b"service-worker-allowed",
        b"set-cookie",
        b"set-cookie2",
        b"strict-transport-security",
        b"x-content-type-options",
        b"x-strake-error",
        # Commands to caches in front, without a common prefix.
        b"cache-tag",
        b"cdn-cache-control",
        b"cdn-loop",
        b"cloudflare-cdn-cache-control",
        b"edge-cache-tag",
        b"edge-control",
        b"netlify-cdn-cache-control",
        b"vercel-cdn-cache-control",
        b"xkey",
        # Envoy takes a host that sends these out of its pool.
        b"x-envoy-degraded",
        b"x-envoy-immediate-health-check-fail",
    }
)
# Commands to a server in front. nginx, Cherokee and proxies with its dialect: x-accel-. Apache, lighttpd, uWSGI and
# Caddy: x-sendfile, x-sendfile2 and x-sendfile-temporary. LiteSpeed: x-litespeed- and x-lscache. Perlbal and H2O:
# x-reproxy-. Varnish, Squid, Fastly and Akamai: surrogate-.
_FOR_THE_HOP_IN_FRONT = (
    b"x-accel-",
    b"x-sendfile",
    b"x-lighttpd-",
    b"x-litespeed-",
    b"x-lscache",
    b"x-reproxy-",
    b"surrogate-",
    b"akamai-cache-",
)
# The only headers that a browser gets from a provider on the dashboard's origin: what API clients read. New headers
# that act on a whole origin appear with every version of browsers.
_FOR_BROWSERS = frozenset(
    {
        b"accept-ranges",
        b"age",
        b"apim-request-id",
        b"cache-control",
        b"cf-ray",
        b"content-disposition",
        b"content-encoding",
        b"content-language",
        b"content-length",
        b"content-location",
        b"content-range",
        b"content-type",
        b"date",
        b"etag",
        b"expires",
        b"last-modified",
        b"location",
        b"operation-location",
        b"request-id",
        b"retry-after",
        b"retry-after-ms",
        b"vary",
        b"www-authenticate",
        b"x-request-id",
        b"x-should-retry",
    }
)
_FOR_BROWSERS_PREFIXES = (
    b"access-control-",
    b"anthropic-",
    b"mcp-",
    b"openai-",
    b"ratelimit",
    b"x-amzn-",
    b"x-goog-",
    b"x-ms-",
    b"x-ratelimit-",
)
_BASE64_RUN = re.compile(rb"[A-Za-z0-9+/]+")
_URLSAFE = bytes.maketrans(b"-_", b"+/")
_MAX_DECODINGS = 2  # of percent-encoding
# Shorter keys, which people give to local servers, appear in base64 by chance: "k" in "text/event-stream".
_MIN_ENCODED_KEY = 8


def for_upstream(headers: Headers, host: bytes, key_header: bytes, *, names: Sequence[bytes] | None = None) -> Headers:
    """Return the request headers for the provider: Host first, then the headers that may pass, in their order.

    `names` are the names of `headers` as the client spelled them.
    `key_header` is the name of the header that will hold the provider key: no header of that name passes, since
    `ConnectionPool.send` adds it. No header that contains a Strake token passes. Names must be lower case.
    Underscores count as dashes, because CGI-like servers map both to the same variable.
    """
    injected = key_header.lower().replace(b"_", b"-")
    nominated = nominated_names(headers)
    passed = [
        (spelled, pair[1])
        for pair, spelled in zip(headers, names or [name for name, _ in headers], strict=True)
        if (name := pair[0] if b"_" not in pair[0] else pair[0].replace(b"_", b"-")) not in _NOT_FOR_UPSTREAM
        and name != injected
        and pair[0] != b"content_length"
        and pair[0] not in nominated
        and not name.startswith((b"x-forwarded-", b"x-strake-"))
    ]
    if tokens.contains(b"\n".join([value for _, value in passed])):
        passed = [pair for pair in passed if not tokens.contains(pair[1])]
    return [(b"Host", host), *passed]


def for_client(headers: Headers, secret: bytearray, *, to_browser: bool) -> Headers:
    """Return the response headers for the client: those that may pass, in their order, spelled as they came.

    No header that contains the provider key, `secret`, passes: neither as it is nor in another case, percent-encoded
    once or twice, or in base64. `to_browser` is for browsers on the dashboard's origin, which get an allow-list only.
    """
    names = [name.lower() for name, _ in headers]
    nominated = _nominated_by([value for name, (_, value) in zip(names, headers, strict=True) if name == b"connection"])
    chunked = b"transfer-encoding" in names
    passed = [
        pair
        for name, pair in zip(names, headers, strict=True)
        if name not in _NOT_FOR_CLIENT
        and name not in nominated
        and not name.startswith(_FOR_THE_HOP_IN_FRONT)
        and not (chunked and name == b"content-length")
        and (not to_browser or name in _FOR_BROWSERS or name.startswith(_FOR_BROWSERS_PREFIXES))
    ]
    passed = _without_secret(passed, secret)
    passed += PROTECTION
    return passed


def _without_secret(headers: Headers, secret: bytearray) -> Headers:
    """Return the headers that do not repeat the secret. Makes no copy of the secret that cannot be wiped."""
    folded = secret.lower()
    encoded_length = (4 * len(secret) + 2) // 3
    text = b"\n".join([part for pair in headers for part in pair])
    # Most responses contain neither the key nor anything that has to be decoded first.
    if folded in text.lower() or b"%" in text or any(len(value) >= encoded_length for _, value in headers):
        headers = [
            pair for pair in headers if folded not in pair[0].lower() and not _repeats(pair[1], folded, encoded_length)
        ]
    wipe(folded)
    return headers


def reason_for_client(reason: bytes, secret: bytearray) -> bytes | None:
    """Return a reason phrase, or None if it repeats the provider key."""
    if len(reason) < len(secret):
        return reason
    folded = secret.lower()
    repeats = _repeats(reason, folded, (4 * len(secret) + 2) // 3)
    wipe(folded)
    return None if repeats else reason


def _repeats(value: bytes, folded: bytearray, encoded_length: int) -> bool:
    """Whether a value repeats the secret, given in lower case. Its base64 form has at least `encoded_length` digits."""
    for _ in range(_MAX_DECODINGS + 1):
        if folded in value.lower():
            return True
        if len(value) >= encoded_length and _repeats_in_base64(value, folded, encoded_length):
            return True
        if b"%" not in value:
            return False
        value = unquote_to_bytes(value)
    return False


def _repeats_in_base64(value: bytes, folded: bytearray, encoded_length: int) -> bool:
    """Decoded and not compared with encoded secrets: those would be copies that cannot be wiped."""
    if len(folded) < _MIN_ENCODED_KEY:
        return False
    for digits in _BASE64_RUN.findall(value.translate(_URLSAFE)):
        if len(digits) < encoded_length:
            continue
        for start in range(4):  # other digits may precede the encoded text
            group = digits[start:]
            whole = group[:-1] if len(group) % 4 == 1 else group
            if folded in binascii.a2b_base64(whole + b"==").lower():
                return True
    return False


def add_missing(headers: Headers, more: Headers) -> None:
    """Add Strake's headers, unless the provider has sent any of them."""
    names = {name.lower() for name, _ in headers}
    if names.isdisjoint(name for name, _ in more):
        headers.extend(more)


def nominated_names(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Return the names that Connection headers nominate as hop-by-hop (RFC 9110 §7.6.1).

    Content-Length is never among them: without it, the provider would read the body as the next request.
    """
    return _nominated_by([value for name, value in headers if name == b"connection"])


def _nominated_by(values: list[bytes]) -> frozenset[bytes]:
    if not values:
        return frozenset()
    return frozenset(option.strip().lower() for value in values for option in value.split(b",")) - {b"content-length"}
