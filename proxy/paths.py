"""What is asked of the upstream: the path byte for byte, refused where two parsers could read it differently."""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.errors import BadPath

# What nearly every path looks like: plain segments, none of which begins with a dot. Decided by one match.
_PLAIN = re.compile(rb"(?:/[A-Za-z0-9\-_~!$&'()*+,=:@][A-Za-z0-9\-._~!$&'()*+,=:@]*)+/?\Z")
# Every byte a path may hold as sent (RFC 3986 §3.3: pchar and "/"). Backslash, control and non-ASCII bytes are out.
_ALLOWED = re.compile(rb"/[A-Za-z0-9\-._~!$&'()*+,;=:@%/]*\Z")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
# Backslash, control bytes, and what no UTF-8 holds but overlong spellings of "." and "/".
_NEVER_DECODED = re.compile(rb"[\\\x00-\x1f\x7f\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]")
# What ends a segment's name for some server that looks at it once it is decoded: parameters, a query, a fragment.
_NAME_END = re.compile(rb"[;?#]")
# Two are what a gateway and a server behind it do, and a URL parser in between may do one more. Deeper than that nobody
# encodes in earnest, and decoding to the end would cost the square of the length.
_MOST_DECODINGS = 3
_QUERY_ALLOWED = re.compile(rb"[!-\"$-~]*\Z")  # what is visible, less "#", which would start a fragment


def check_path(path: bytes) -> None:
    """Refuse a path that leaves its base in any reading: as it is, or decoded however often. Raises `BadPath`.

    Encoded slashes as such pass (`models/openai%2Fgpt-4o` is what SDKs send); encoded dot segments, backslashes and
    control bytes do not.
    """
    if _PLAIN.match(path):
        return
    if not _ALLOWED.match(path) or b"//" in path or _BAD_ESCAPE.search(path):
        raise BadPath
    for reading in _readings(path):
        if _NEVER_DECODED.search(reading):
            raise BadPath
        for segment in reading.split(b"/"):
            # A parameter behind ";" does not make "..;x" harmless: some servers cut it off before they normalise;
            # others cut off dots and spaces at the end.
            name = _NAME_END.split(segment, maxsplit=1)[0]
            if b"." in name and not name.rstrip(b". "):
                raise BadPath


def has_encoded_slash(path: bytes) -> bool:
    """Whether a path that has been checked hides a slash from a pattern: `%2f`, or that encoded again."""
    return b"%" in path and any(reading.count(b"/") > path.count(b"/") for reading in _readings(path))


def _readings(path: bytes) -> Iterator[bytes]:
    """The path, and what each further decoding makes of it. Raises `BadPath` where that does not come to an end."""
    yield path
    for _ in range(_MOST_DECODINGS):
        decoded = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), path) if b"%" in path else path
        if decoded == path:
            return
        yield decoded
        path = decoded
    if _ESCAPE.search(path):
        raise BadPath


def check_query(query: bytes) -> None:
    """Refuse bytes that no query holds on the wire. Raises `BadPath`."""
    if query and not _QUERY_ALLOWED.match(query):
        raise BadPath


def target(base_path: bytes, path: bytes, query: bytes) -> bytes:
    """The request target for the upstream: its base path, the client's path, the client's query.

    Both halves have been checked. That the result stays below the base is asserted all the same: it is what the
    whole check is for.
    """
    whole = base_path + path
    if not whole.startswith(base_path + b"/"):
        raise BadPath
    return whole + b"?" + query if query else whole
