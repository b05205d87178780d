"""Raw sockets for tests: what is sent is sent as it is, and what comes back is read byte by byte."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.running import Endpoint


@dataclass(frozen=True)
class Answer:
    """What came back on one connection until it closed or fell silent."""

    raw: bytes
    closed: bool
    reset: bool = False

    @property
    def status(self) -> int:
        """The status of the first answer; 0 where there is none."""
        return int(self.raw[9:12]) if self.raw.startswith(b"HTTP/1.") else 0

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def count(self) -> int:
        """How many answers came."""
        return len(re.findall(rb"HTTP/1\.1 [1-9]\d\d ", self.raw))

    def all(self, name: str) -> list[bytes]:
        """Every value of a header of the first answer, in order."""
        lines = (line.partition(b":") for line in self.head.split(b"\r\n")[1:])
        return [value.strip() for known, _, value in lines if known.lower() == name.lower().encode()]


def get(endpoint: Endpoint, path: str = "/x", *headers: str, method: str = "GET") -> bytes:
    """A whole request for an endpoint, with its token and these further header lines."""
    lines = "".join(f"{line}\r\n" for line in headers)
    return (
        f"{method} {endpoint.path}{path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {endpoint.token}\r\n{lines}\r\n"
    ).encode("latin-1")


@contextlib.contextmanager
def connected(address: tuple[str, int], *, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """A connection with a timeout of ten seconds."""
    with socket.socket() as connection:
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(10)
        connection.connect(address)
        yield connection


def exchange(address: tuple[str, int], *pieces: bytes, silence: float = 0.5, pause: float = 0.02) -> Answer:
    """Send the pieces, `pause` seconds apart, and read until the peer closes or is silent for `silence` seconds."""
    with connected(address) as connection:
        for index, piece in enumerate(pieces):
            if index:
                time.sleep(pause)
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
        return read(connection, silence=silence)


def ask(address: tuple[str, int], raw: bytes) -> Answer:
    """Send one request and read its one answer, by its Content-Length or its last chunk, without waiting for more."""
    with connected(address) as connection:
        connection.sendall(raw)
        received = b""
        while not _is_whole(received):
            data = connection.recv(256 * 1024)
            if not data:
                return Answer(received, closed=True)
            received += data
        return Answer(received, closed=False)


def _is_whole(received: bytes) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if length is not None:
        return len(body) >= int(length[1])
    return bool(end) and body.endswith(b"0\r\n\r\n")


def read(connection: socket.socket, *, silence: float = 0.5) -> Answer:
    """Read until the peer closes or is silent for `silence` seconds."""
    received = b""
    connection.settimeout(silence)
    try:
        while data := connection.recv(256 * 1024):
            received += data
    except TimeoutError:
        return Answer(received, closed=False)
    except ConnectionResetError:
        return Answer(received, closed=True, reset=True)
    return Answer(received, closed=True)


def read_head(connection: socket.socket) -> bytes:
    """Read to the end of an answer's head, a byte at a time, and no further."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = connection.recv(1)
        if not data:
            raise ConnectionError(f"closed after {head!r}")
        head += data
    return head


def reset(connection: socket.socket) -> None:
    """Close with an RST and not a FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
