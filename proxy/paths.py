"""What is asked of the upstream: the path byte for byte, refused where two parsers could read it differently."""

from __future__ import annotations

import re

from proxy.errors import BadPath

# What nearly every path looks like: plain segments, none of which begins with a dot. Decided by one match.
_PLAIN = re.compile(rb"(?:/[A-Za-z0-9\-_~!$&'()*+,=:@][A-Za-z0-9\-._~!$&'()*+,=:@]*)+/?\Z")
# Every byte a path may hold as sent (RFC 3986 §3.3: pchar and "/"). Backslash, control and non-ASCII bytes are out.
_ALLOWED = re.compile(rb"/[A-Za-z0-9\-._~!$&'()*+,;=:@%/]*\Z")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
# Backslash, control bytes, and C0 and C1: bytes of no UTF-8, but of overlong spellings of "." and "/".
_NEVER_DECODED = re.compile(rb"[\\\x00-\x1f\x7f\xc0\xc1]")
_QUERY_ALLOWED = re.compile(rb"[!-\"$-~]*\Z")  # what is visible, less "#", which would start a fragment


def check_path(path: bytes) -> None:
    """Refuse a path that leaves its base in any reading: as it is, or decoded again and again. Raises `BadPath`.

    Encoded slashes as such pass (`models/openai%2Fgpt-4o` is what SDKs send); encoded dot segments, backslashes and
    control bytes do not.
    """
    if _PLAIN.match(path):
        return
    if not _ALLOWED.match(path) or b"//" in path:
        raise BadPath
    if b"%" in path and _BAD_ESCAPE.search(path):
        raise BadPath
    if b"." in path or b"%" in path:
        _check_segments(path)


def _check_segments(path: bytes) -> None:
    reading = path
    for _ in range(4):  # as it is, and decoded up to three times: twice by servers, once more by a URL parser of theirs
        for segment in reading.split(b"/"):
            # A parameter behind ";" does not make "..;x" harmless: some servers cut it off before they normalise;
            # others cut off dots and spaces at the end.
            name = segment.partition(b";")[0]
            if b"." in name and not name.rstrip(b". "):
                raise BadPath
        if b"%" not in reading:
            return
        decoded = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), reading)
        if _NEVER_DECODED.search(decoded):
            raise BadPath
        reading = decoded


def has_encoded_slash(path: bytes) -> bool:
    """Whether a path hides a slash from a pattern: `%2f`, `%5c`, or one of them encoded again."""
    lowered = path.lower()
    return b"%2f" in lowered or b"%5c" in lowered or b"%252f" in lowered or b"%255c" in lowered


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
