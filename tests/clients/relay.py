"""A TCP relay that counts the requests on their way to a server. It changes no byte."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from typing import Self

# Bodies are JSON, which cannot contain a line break that is not escaped.
_REQUEST_LINE = re.compile(rb"(?:^|\n)[A-Z]+ /\S* HTTP/1\.1\r$", re.MULTILINE)


class Relay:
    """Listens on a loopback port. Use it as a context manager."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._received: list[bytearray] = []
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.first_at: float | None = None  # by time.monotonic
        self._connections: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self.port: int = self._server.getsockname()[1]

    @property
    def requests(self) -> int:
        """The number of requests so far, WebSocket handshakes among them."""
        return sum(len(_REQUEST_LINE.findall(received)) for received in self._received)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._accepting.join()
        self._server.close()
        for connection in self._connections:
            connection.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            self._connections.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        self.first_at = self.first_at or time.monotonic()
        received = bytearray()
        self._received.append(received)
        with client, socket.create_connection(self._target) as upstream:
            back = threading.Thread(target=_pipe, args=(upstream, client, None))
            back.start()
            _pipe(client, upstream, received)
            back.join()


def _pipe(source: socket.socket, target: socket.socket, seen: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if seen is not None:
                seen += data
            target.sendall(data)
    for connection in (source, target):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
