"""The request target for the provider: the client's path and query, byte for byte, or a refusal.

A path is refused if two servers could read it differently. Characters that RFC 3986 does not allow pass if they cannot
be read as anything else: the URLs of browsers and of JavaScript leave them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.errors import BadPath

# Fast path for nearly every request: plain segments that do not begin with a dot.
_PLAIN = re.compile(rb"(?:/[A-Za-z0-9\-_~!$&'()*+,=:@][A-Za-z0-9\-._~!$&'()*+,=:@]*)+/?\Z")
# RFC 3986 §3.3, pchar and "/", and what https://url.spec.whatwg.org/#path-percent-encode-set leaves besides.
_SLASH, _PERCENT = ord("/"), ord("%")
_NOT_ALLOWED = re.compile(rb"[^A-Za-z0-9\-._~!$&'()*+,;=:@%/\[\]|^]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
# Backslash, control bytes, and the overlong UTF-8 encodings of "." and "/".
_FORBIDDEN_DECODED = re.compile(rb"[\\\x00-\x1f\x7f\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]")
# Some servers end a decoded segment's name at parameters, a query or a fragment.
_NAME_END = re.compile(rb"[;?#]")
# A gateway, a URL parser and a server may each decode once. Decoding to the end would take quadratic time.
_MAX_DECODINGS = 3
_NOT_ALLOWED_IN_QUERY = re.compile(rb"[^!-\"$-~]")  # visible ASCII, except "#"


def check_path(path: bytes) -> None:
    """Refuse a path that leaves its base as sent or when decoded repeatedly. Raises `BadPath`. "" is the bare URL.

    Encoded slashes pass, because SDKs send `models/openai%2Fgpt-4o`. Encoded dot segments, backslashes and control
    bytes do not.
    """
    if not path or _PLAIN.match(path):
        return
    if (found := _NOT_ALLOWED.search(path)) is not None:
        raise _bad_path(f"it contains {describe(found[0])}")
    if not path.startswith(b"/"):
        raise BadPath
    if b"//" in path:
        raise _bad_path("it contains two slashes in a row, often because the base URL ends with one")
    if _BAD_ESCAPE.search(path):
        raise _bad_path("it contains a % without two hexadecimal digits behind it. Send a % itself as %25")
    for decoded in decodings(path):
        if _FORBIDDEN_DECODED.search(decoded):
            raise _bad_path("it contains an encoded backslash, control character or overlong UTF-8 sequence")
        for segment in decoded.split(b"/"):
            # Some servers cut off parameters ("..;x") before they normalise, others trailing dots and spaces.
            name = _NAME_END.split(segment, maxsplit=1)[0]
            if b"." in name and not name.rstrip(b". "):
                raise _bad_path("it contains a segment of dots such as . or .., perhaps encoded")


def has_encoded_slash(path: bytes) -> bool:
    """True if a checked path contains an encoded slash: `%2f`, or the same encoded again."""
    return _PERCENT in path and any(decoded.count(b"/") > path.count(b"/") for decoded in decodings(path))


def decodings(path: bytes) -> Iterator[bytes]:
    """Yield the path, then each further decoding of it. Raises `BadPath` if it is encoded more than three times."""
    yield path
    for _ in range(_MAX_DECODINGS):
        decoded = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), path) if b"%" in path else path
        if decoded == path:
            return
        yield decoded
        path = decoded
    if _ESCAPE.search(path):
        raise _bad_path("it is percent-encoded more than three times")


def check_query(query: bytes) -> None:
    """Refuse bytes that a query may not contain. Raises `BadPath`."""
    if query and (found := _NOT_ALLOWED_IN_QUERY.search(query)) is not None:
        raise _bad_path(f"its query contains {describe(found[0])}")


def _bad_path(problem: str) -> BadPath:
    return BadPath(f"This path is not forwarded: {problem}.")


def describe(byte: bytes) -> str:
    """Name a byte that has to be percent-encoded, in a form that any terminal can show."""
    encoded = f"%{byte[0]:02X}"
    if not 0x20 < byte[0] < 0x7F:
        return f"the byte 0x{byte[0]:02X}. Send it as {encoded}"
    return f"the character {byte.decode()} which must be sent as {encoded}"


def build_target(base_path: bytes, path: bytes, query: bytes) -> bytes:
    """Join the destination's base path with the client's path and query, both checked. Raises `BadPath`.

    Without a path, the target is the destination as its owner entered it: `/mcp` and not `/mcp/`.
    """
    target = base_path + path or b"/"
    if path and path[0] != _SLASH:
        raise BadPath
    return target + b"?" + query if query else target
