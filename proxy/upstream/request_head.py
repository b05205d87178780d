"""Encodes the head of a request to a provider, byte for byte as it is given."""

from __future__ import annotations

from proxy.errors import UpstreamInvalid
from proxy.http.names import Headers

_CR, _LF = b"\r\n"


def encode_head(
    method: str,
    target: bytes | bytearray,
    headers: Headers,
    key_header: tuple[bytes, bytearray],
    *,
    chunked: bool,
    key_lines: int = 1,
) -> bytes | bytearray:
    """Encode a request up to the value of its last header, which holds the key and `key_lines` headers in all.

    A `target` that is a bytearray holds it too. Then the caller must wipe the result. Raises `UpstreamInvalid`.
    """
    name, key = key_header
    lines = [b": ".join(pair) for pair in headers]
    # Line breaks would start another header or request.
    text = b"".join(lines)
    if _CR in text or _LF in text or _CR in name or _LF in name or _CR in target or _LF in target:
        raise UpstreamInvalid
    if (_LF in key or _CR in key or key_lines != 1) and not key.count(b"\n") == key.count(b"\r") == key_lines - 1:
        raise UpstreamInvalid
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
    lines.append(name)
    empty: bytes | bytearray = bytearray() if isinstance(target, bytearray) else b""
    return empty.join((method.encode(), b" ", target, b" HTTP/1.1\r\n", b"\r\n".join(lines), b": "))
