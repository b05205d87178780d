"""A client's connection without a socket, in the event loop of a test."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from uvicorn.server import ServerState

from proxy.server.exchange import Exchange
from proxy.server.protocol import HTTPProtocol
from tests.support.serving import Handler


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, client: tuple[str, int] | None) -> None:
        super().__init__({"peername": client, "sockname": ("127.0.0.1", 8000)})
        self.written = b""
        self.aborted = False
        self._closing = False

    def write(self, data: Any) -> None:
        self.written += data

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = self.aborted = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def connect(handle: Handler, *, client: tuple[str, int] | None = ("192.0.2.1", 1)) -> tuple[HTTPProtocol, Transport]:
    """Return the server's side of a new connection. Pass what the client sends to `data_received`."""
    config: Any = SimpleNamespace(loaded_app=SimpleNamespace(handle=handle))
    protocol = HTTPProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    transport = Transport(client)
    protocol.connection_made(transport)
    return protocol, transport


def exchange_of(
    raw: bytes, *, client: tuple[str, int] | None = ("192.0.2.1", 1), is_internal: bool = False
) -> Exchange:
    """Return the exchange of a request as it was sent. Nothing responds to it."""

    async def handle(exchange: Exchange) -> None:
        await asyncio.get_running_loop().create_future()

    protocol, transport = connect(handle, client=client)
    protocol.is_internal = is_internal
    protocol.data_received(raw)
    assert not transport.written, transport.written
    return cast(Exchange, protocol.exchange)


def get(target: bytes, *headers: tuple[bytes, bytes], host: bytes = b"a") -> bytes:
    """Return a request without a body."""
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    return b"GET %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (target, host, lines)
