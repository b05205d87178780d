"""Upstreams that answer during an upload and close, and a client that reads while it sends."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator

from tests.support.raw import connected

BODY = b'{"error":{"type":"request_too_large","message":"too large"}}'
ANSWERS = {
    "with a length": b"HTTP/1.1 413 Too Large For Us\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
    % (len(BODY), BODY),
    "without a length": b"HTTP/1.1 401 No\r\nConnection: close\r\n\r\n" + BODY,
}


@contextlib.contextmanager
def refusing_upstream(answer: bytes, *, tls: ssl.SSLContext | None = None, reads: int = 0) -> Iterator[int]:
    """An upstream that reads a head and `reads` bytes of the body, answers and closes. Yields its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:

        def serve_one(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                # As every server does that matters here. Otherwise an answer behind TLS 1.3's session tickets waits
                # for their acknowledgement, and closing drops it before it has left.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stream = tls.wrap_socket(connection, server_side=True) if tls is not None else connection
                with stream:
                    head = b""
                    while b"\r\n\r\n" not in head or len(head.partition(b"\r\n\r\n")[2]) < reads:
                        data = stream.recv(4096)
                        if not data:
                            return
                        head += data
                    stream.sendall(answer)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve_one, args=(listening.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def post(
    address: tuple[str, int], head: str, size: int, *, chunked: bool = False, tls: ssl.SSLContext | None = None
) -> bytes:
    """Send a request with a body of `size` bytes, and read while sending. Returns what arrived before the end."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    received, left, block = b"", size, b"x" * 65536
    with connected(address) as plain:
        connection = tls.wrap_socket(plain, server_hostname="localhost") if tls is not None else plain
        connection.sendall(f"{head}Host: localhost\r\n{framing}\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            while left and b"}}" not in received:
                readable, writable, _ = select.select([connection], [connection], [], 60)
                if readable:
                    data = connection.recv(65536)
                    if not data:
                        break
                    received += data
                elif writable:
                    part = block[:left]
                    left -= len(part)
                    connection.sendall(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        with contextlib.suppress(OSError):
            while b"}}" not in received and (data := connection.recv(65536)):
                received += data
        if tls is not None:
            connection.close()
    return received
