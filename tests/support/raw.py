"""Raw sockets for tests: requests and responses as bytes."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.running import Endpoint

PATIENCE = 60  # seconds for what must happen at some time, however busy the machine is


@dataclass(frozen=True)
class Response:
    """The bytes received on one connection. Usually they are one response."""

    raw: bytes
    closed: bool
    reset: bool = False

    @property
    def status(self) -> int:
        """The status of the first response, or 0."""
        return int(self.raw[9:12]) if self.raw.startswith(b"HTTP/1.") else 0

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def count(self) -> int:
        """The number of responses."""
        return len(re.findall(rb"HTTP/1\.1 [1-9]\d\d ", self.raw))

    def all(self, name: str) -> list[bytes]:
        """Return every value of a header of the first response, in order."""
        lines = (line.partition(b":") for line in self.head.split(b"\r\n")[1:])
        return [value.strip() for known, _, value in lines if known.lower() == name.lower().encode()]


def get(endpoint: Endpoint, path: str = "/x", *headers: str, method: str = "GET") -> bytes:
    """Return a request to an endpoint, with its token and these additional header lines."""
    lines = "".join(f"{line}\r\n" for line in headers)
    return (
        f"{method} {endpoint.path}{path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {endpoint.token}\r\n{lines}\r\n"
    ).encode("latin-1")


@contextlib.contextmanager
def connected(address: tuple[str, int], *, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """Connect with a timeout of `PATIENCE`."""
    with socket.socket() as connection:
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(PATIENCE)
        connection.connect(address)
        yield connection


def exchange(address: tuple[str, int], *pieces: bytes, silence: float = 0.5, pause: float = 0.02) -> Response:
    """Send the pieces `pause` seconds apart, then `read`."""
    with connected(address) as connection:
        for index, piece in enumerate(pieces):
            if index:
                time.sleep(pause)
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
        return read(connection, silence=silence, bodiless=pieces[0].startswith(b"HEAD "))


def ask(address: tuple[str, int], raw: bytes) -> Response:
    """Send one request and read its response up to its Content-Length or its last chunk."""
    with connected(address) as connection:
        connection.sendall(raw)
        received = b""
        while not _is_whole(received):
            data = connection.recv(256 * 1024)
            if not data:
                return Response(received, closed=True)
            received += data
        return Response(received, closed=False)


def _is_whole(received: bytes, *, bodiless: bool = False) -> bool:
    """True if the first response that is final is complete. `bodiless` is for responses to HEAD."""
    head, end, body = received.partition(b"\r\n\r\n")
    while end and re.match(rb"HTTP/1\.1 1(?!01)", head):
        head, end, body = body.partition(b"\r\n\r\n")
    if end and (bodiless or re.match(rb"HTTP/1\.1 (101|204|304) ", head)):
        return True
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if length is not None:
        return len(body) >= int(length[1])
    return bool(end) and body.endswith(b"0\r\n\r\n")


def read(connection: socket.socket, *, silence: float = 0.5, bodiless: bool = False) -> Response:
    """Read until the peer closes, or sends nothing for `silence` seconds after a complete response.

    Waits up to `PATIENCE` for a response to be complete, and for the end of a connection that the response closes. A
    test that expects another connection to end passes `PATIENCE` as `silence`.
    """
    received = b""
    try:
        while True:
            whole = _is_whole(received, bodiless=bodiless) and not re.search(rb"(?i)\r\nconnection: close", received)
            connection.settimeout(silence if whole else PATIENCE)
            data = connection.recv(256 * 1024)
            if not data:
                break
            received += data
    except TimeoutError:
        return Response(received, closed=False)
    except ConnectionResetError:
        return Response(received, closed=True, reset=True)
    return Response(received, closed=True)


def read_head(connection: socket.socket) -> bytes:
    """Read a response's head, and nothing behind it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = connection.recv(1)
        if not data:
            raise ConnectionError(f"closed after {head!r}")
        head += data
    return head


def reset(connection: socket.socket) -> None:
    """Close the connection with an RST instead of a FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
