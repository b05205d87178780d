"""Where WebSocket frames begin and end in a stream of bytes (RFC 6455 §5.2). Their content is not looked at."""

from __future__ import annotations


class FrameBoundary:
    """Follows a stream of frames by their headers."""

    __slots__ = ("_header", "_payload")

    def __init__(self) -> None:
        self._header = b""  # the part of a frame's header that has arrived
        self._payload = 0  # bytes of the current frame that are still to come

    @property
    def is_between_frames(self) -> bool:
        """True if the next byte begins a frame."""
        return not self._header and not self._payload

    def feed(self, data: bytes) -> None:
        """Follow the next bytes of the stream."""
        position, end = 0, len(data)
        while position < end:
            if self._payload:
                skipped = min(self._payload, end - position)
                self._payload -= skipped
                position += skipped
                continue
            header = self._header
            needed = _header_size(header)
            part = data[position : position + needed - len(header)]
            position += len(part)
            header += part
            if len(header) == _header_size(header):
                self._header, self._payload = b"", _payload_size(header)
            else:
                self._header = header


def _header_size(header: bytes) -> int:
    """Return the size of a header in bytes, as far as the bytes that have arrived tell. At least 2."""
    if len(header) < 2:
        return 2
    length = header[1] & 0x7F
    extended = 8 if length == 127 else 2 if length == 126 else 0
    return 2 + extended + (4 if header[1] & 0x80 else 0)


def _payload_size(header: bytes) -> int:
    length = header[1] & 0x7F
    if length < 126:
        return length
    return int.from_bytes(header[2:10] if length == 127 else header[2:4])
