"""Upgraded connections: the handshake as the server hands it over, and two connections joined byte for byte.

WebSocket frames are not taken apart here. What passes is what each side sent: text, binary, pings, close codes,
fragments and compression are between the client and its provider. uvicorn's own WebSocket protocol would put messages
together, answer pings by itself, and know of no back-pressure on the way to ASGI.
"""

from __future__ import annotations

import asyncio
import select
import socket
from http import HTTPStatus
from time import monotonic
from typing import Any, cast

from django.conf import settings
from uvicorn.config import Config
from uvicorn.server import ServerState

from proxy.headers import Headers
from proxy.http1 import RESET

# A tunnel that is quiet for this long while the server stops is ended; one that is busy has the server's patience.
QUIET_SECONDS = 2.0
# How long the last bytes may take to leave after the other side has closed.
LINGER_FOR_UPSTREAM = 0.5
LINGER_FOR_CLIENT = 30.0
BUFFER_BYTES = 64 * 1024
HELD_SECONDS = 0.25  # how often it is asked whether a client has left that is not being read
EXTENSION = "strake.tunnel"


class UpgradeProtocol(asyncio.Protocol):
    """uvicorn's protocol class for connections that ask for WebSocket: calls the application with the handshake.

    The application finds this object in the scope's extensions, and answers with `respond` or `join`.
    """

    transport: asyncio.Transport

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self._app = cast(Any, config.loaded_app)
        self._server = server_state
        self._app_state = app_state
        self._task: asyncio.Task[None] | None = None
        self._tunnel: Tunnel | None = None
        self._draining = False
        self._early = b""

    # --- What uvicorn and the event loop call ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        if self._task is not None:
            # Frames sent ahead of the answer. They wait, but not while reading is paused: the client's leaving would
            # not be seen. None sends many, as the answer says which protocol they have to be in.
            self._early += data
            if len(self._early) > BUFFER_BYTES:
                self.transport.abort()
            return
        self._task = asyncio.get_running_loop().create_task(self._run(self._scope(data)))
        self._server.tasks.add(self._task)
        self._task.add_done_callback(self._server.tasks.discard)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)  # type: ignore[arg-type]
        if self._task is not None:
            self._task.cancel()

    def shutdown(self) -> None:
        """The server stops: end as soon as nothing is under way."""
        self._draining = True
        if self._tunnel is not None:
            self._tunnel.drain()

    # --- What the application calls ----------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether the client has closed its connection."""
        return self.transport.is_closing()

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Refuse the upgrade, unless it has been answered: what goes wrong later can only end the connection."""
        if self._tunnel is not None:
            return
        kept = [pair for pair in headers if pair[0] != b"content-length"]
        framing = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        self.transport.write(_head(status, kept + framing) + body)

    async def join(self, headers: Headers, upstream: asyncio.Transport, early: bytes) -> None:
        """Accept the upgrade with these headers, and pass bytes both ways until both sides have closed.

        `upstream` is a paused transport, `early` what has been read from it already.
        """
        self.transport.write(_head(101, [*headers, (b"upgrade", b"websocket"), (b"connection", b"Upgrade")]) + early)
        upstream.write(self._early)
        tunnel = self._tunnel = Tunnel(self.transport, upstream)
        if self._draining:
            tunnel.drain()
        await tunnel.run()

    # --- Inside ------------------------------------------------------------------------------------------------------

    async def _run(self, scope: dict[str, Any]) -> None:
        try:
            await self._app(scope, _unused, _unused)
        finally:
            self._server.connections.discard(self)  # type: ignore[arg-type]
            self.transport.close()

    def _scope(self, head: bytes) -> dict[str, Any]:
        first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        method, target, _ = first.split(b" ")
        path, _, query = target.partition(b"?")
        headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
        return {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method.decode(),
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "headers": headers,
            "client": self.transport.get_extra_info("peername"),
            "server": self.transport.get_extra_info("sockname"),
            "state": self._app_state.copy(),
            "extensions": {EXTENSION: self, "strake.target": target},
        }


class Tunnel:
    """Two joined connections. Takes both transports over; neither outlives `run`."""

    def __init__(self, client: asyncio.Transport, upstream: asyncio.Transport) -> None:
        self.last_activity = monotonic()
        self._draining = False
        self._stirred = asyncio.Event()
        self._ends = (_End(self, client, LINGER_FOR_CLIENT), _End(self, upstream, LINGER_FOR_UPSTREAM))
        one, other = self._ends
        one.other, other.other = other, one
        for end in self._ends:
            end.transport.set_write_buffer_limits(high=BUFFER_BYTES)
            end.transport.set_protocol(end)
            end.transport.resume_reading()

    async def run(self) -> None:
        """Return when both sides have closed. Nothing either way for `STRAKE_IDLE_SECONDS` ends it too."""
        client, _ = self._ends
        try:
            for end in self._ends:
                if end.transport.is_closing():  # before it was taken over
                    end.connection_lost(None)
            while not all(end.lost for end in self._ends):
                limit = QUIET_SECONDS if self._draining else settings.STRAKE_IDLE_SECONDS
                left = self.last_activity + limit - monotonic()
                if left <= 0:
                    return
                if client.held:
                    if client.has_left():
                        return
                    left = min(left, HELD_SECONDS)
                self._stirred.clear()
                try:
                    async with asyncio.timeout(left):
                        await self._stirred.wait()
                except TimeoutError:
                    pass  # something may have passed meanwhile
        finally:
            for end in self._ends:
                end.abort()

    def drain(self) -> None:
        """End as soon as nothing is under way."""
        self._draining = True
        self.stir()

    def stir(self) -> None:
        self._stirred.set()


class _End(asyncio.Protocol):
    """One end of a tunnel: what arrives here leaves at the other end, and no faster than it leaves there."""

    other: _End

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, linger: float) -> None:
        self.transport = transport
        self.lost = False
        self.held = False  # not read, as the other end takes no more
        self._tunnel = tunnel
        self._linger = linger

    def data_received(self, data: bytes) -> None:
        self._tunnel.last_activity = monotonic()
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()
            self.other.held = True
            self._tunnel.stir()

    def resume_writing(self) -> None:
        self._tunnel.last_activity = monotonic()
        self.other.held = False
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.other.end()
        self._tunnel.stir()

    def has_left(self) -> bool:
        """Whether the peer has closed, perhaps behind bytes that are not being read. The event loop does not see it."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def end(self) -> None:
        """Close once everything has left, or after a while."""
        if not self.lost:
            self.transport.close()
            asyncio.get_running_loop().call_later(self._linger, self.abort)

    def abort(self) -> None:
        """Reset the connection. A mere close would wait in the kernel behind what a peer does not read."""
        if not self.lost:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()


def _head(status: int, headers: Headers) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason.encode(), lines)


async def _unused(*_: object) -> Any:
    raise NotImplementedError("An upgraded connection is answered through its extension.")
