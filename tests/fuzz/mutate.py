"""Random changes to a message, of the kinds that confuse parsers. The same generator gives the same changes."""

from __future__ import annotations

import random
from collections.abc import Sequence

# What has confused HTTP parsers: line ends, other white space, framing, separators, numbers at their limits.
FRAGMENTS = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\x00", b"\t", b"\x0b", b" ", b":", b",", b";", b"%", b"%2e", b"%2f", b"%00",
    b"..", b"//", b"\\", b"?", b"#", b"@", b"\xc0\xae", b"\xff", b"\x7f", b"0", b"-1", b"00000003", b"0x3", b"+3",
    b"18446744073709551616", b"chunked", b"identity", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n", b"Connection: close\r\n", b"Connection: content-length\r\n", b"Host: evil.example\r\n",
    b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2",
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"099", b"204", b"304", b"999",
)  # fmt: skip
MAX_BYTES = 32 * 1024


def mutate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return `data` with one to four random changes. `others` are messages to take pieces from."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        end = min(len(changed), at + rng.choice((1, 1, 2, 4, 16, 64)))
        match rng.randrange(8):
            case 0:
                changed[at:at] = rng.choice(FRAGMENTS)
            case 1:
                changed[at:end] = rng.choice(FRAGMENTS)
            case 2:
                del changed[at:end]
            case 3:
                changed[at:at] = changed[at:end] * rng.choice((1, 1, 2, 100))
            case 4 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 5 if at < len(changed):
                changed[at] = rng.randrange(256)
            case 6:
                changed[at:end] = _piece(rng, rng.choice(others))
            case 7:
                _swap_lines(rng, changed)
            case _:
                changed.append(rng.randrange(256))
    return bytes(changed[:MAX_BYTES])


def _piece(rng: random.Random, other: bytes) -> bytes:
    start = rng.randrange(len(other) + 1)
    return other[start : start + rng.choice((2, 8, 64, 512))]


def _swap_lines(rng: random.Random, data: bytearray) -> None:
    """Exchange two lines: headers in another order, or a header before the request line."""
    lines = data.split(b"\r\n")
    if len(lines) > 2:
        first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[first], lines[second] = lines[second], lines[first]
        data[:] = b"\r\n".join(lines)
