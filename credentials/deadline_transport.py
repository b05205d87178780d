"""An httpx transport with one deadline for a whole request, and with connections that the caller opens.

`httpx.HTTPTransport` would be shorter, but each of its timeouts limits one operation: a server that sends its response
head byte by byte could hold a thread for hours.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

import httpcore
import httpx


class Deadline:
    """A moment, `seconds` after the object was created."""

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds left, more than 0. Raises `TimeoutError`."""
        seconds = self._end - monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds


Connect = Callable[[str, int, Deadline], socket.socket]


class DeadlineTransport(httpx.BaseTransport):
    """Sends requests over HTTP/1.1 on connections that `connect` opens, given a host, a port and the deadline.

    Everything from the first look-up to the last byte has to be done `seconds` after the transport was created.
    Timeouts of the client or of a request are ignored.

    Requests raise what `connect` raises, `TimeoutError` or another `OSError`, or `httpcore.ProtocolError`.
    """

    def __init__(self, connect: Connect, *, seconds: float, ssl_context: ssl.SSLContext | None = None) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context, network_backend=_Backend(connect, Deadline(seconds))
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        response = self._pool.handle_request(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
            )
        )
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class _Backend(httpcore.NetworkBackend):
    def __init__(self, connect: Connect, deadline: Deadline) -> None:
        self._connect = connect
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._connect(host, port, self._deadline), self._deadline)


class _Stream(httpcore.NetworkStream):
    """A connection on which every operation is limited by the deadline, not by `timeout`."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._connection.settimeout(self._deadline.remaining())
        return self._connection.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return  # Sending nothing would fail if the server has responded and closed already.
        self._connection.settimeout(self._deadline.remaining())
        self._connection.sendall(buffer)

    def close(self) -> None:
        self._connection.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            self._connection.settimeout(self._deadline.remaining())
            wrapped = ssl_context.wrap_socket(self._connection, server_hostname=server_hostname)
        except BaseException:
            self.close()
            raise
        return _Stream(wrapped, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return None
