"""The client's connection from a WebSocket handshake on.

WebSocket frames are not changed: text, binary, pings, close codes, fragments and compression are between the client
and its provider. uvicorn's WebSocket protocol reassembles messages, responds to pings itself, and has no back-pressure
towards ASGI.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, cast

from uvicorn.server import ServerState

from proxy.http.names import Headers
from proxy.server.application import Application
from proxy.server.exchange import Exchange
from proxy.upstream.tunnel import Tunnel

MAX_EARLY_BYTES = 64 * 1024


class WebSocketProtocol(asyncio.Protocol):
    """Runs the application with the exchange of the handshake, whose `websocket` is this object.

    The application calls `respond` or `join`, and nothing of the exchange, to respond.
    """

    def __init__(self, application: Application, exchange: Exchange, server: ServerState, *, received: bytes) -> None:
        """Take the transport over. `received` is what has arrived behind the handshake."""
        self.transport = exchange.transport
        self._connections = cast("set[Any]", server.connections)
        self._early = b""
        self._tunnel: Tunnel | None = None
        self._draining = False
        exchange.websocket = self
        self._connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._run(application, exchange))
        server.tasks.add(self._task)
        self._task.add_done_callback(server.tasks.discard)
        self.transport.set_protocol(self)
        self.data_received(received)

    # --- Called by the event loop and by uvicorn ----------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Buffer frames that arrive before the handshake's response.

        Reading goes on, because a disconnect would not be noticed otherwise.
        """
        self._early += data
        if len(self._early) > MAX_EARLY_BYTES:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._task.cancel()

    def shutdown(self) -> None:
        """The server stops: end the connection as soon as it is quiet."""
        self._draining = True
        if self._tunnel is not None:
            self._tunnel.drain()

    # --- Called by the application ------------------------------------------------------------------------------------

    def end(self) -> None:
        """End the connection because its access has ended: before `join` by cancelling the application."""
        if self._tunnel is not None:
            self._tunnel.refuse()
        else:
            self._task.cancel()

    @property
    def disconnected(self) -> bool:
        """Whether the client has disconnected."""
        return self.transport.is_closing()

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Refuse the handshake. Does nothing after `join`: an error can then only end the connection."""
        if self._tunnel is not None:
            return
        headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
        framing = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        self.transport.write(_encode_head(status, headers + framing) + body)

    async def join(self, headers: Headers, upstream: asyncio.Transport, received: bytes) -> None:
        """Accept the handshake with these headers, then pass bytes both ways until both sides have closed.

        `upstream` is a paused transport, and `received` what has already been read from it.
        """
        upgrade = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")]
        self.transport.write(_encode_head(101, headers + upgrade) + received)
        upstream.write(self._early)
        tunnel = self._tunnel = Tunnel(self.transport, upstream, received)
        if self._draining:
            tunnel.drain()
        await tunnel.run()

    async def _run(self, application: Application, exchange: Exchange) -> None:
        try:
            await application.handle(exchange)
        finally:
            self._connections.discard(self)
            self.transport.close()


def _encode_head(status: int, headers: Headers) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason.encode(), lines)
