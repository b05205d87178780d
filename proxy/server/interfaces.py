"""What the parts of the server know of one another."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from proxy.http.names import Headers
from proxy.server.run import Signal


class Connection(Protocol):
    """The client's connection, as far as a request and its response need it."""

    arrived: Signal
    client: tuple[str, int] | None
    idle_seconds: float
    is_full: bool
    is_internal: bool
    listener: tuple[str, int | None]
    loop: asyncio.AbstractEventLoop
    tasks: set[Any]
    transport: asyncio.Transport
    writable: Signal

    def break_off(self, *, seconds: float | None = None) -> None: ...

    def on_response_complete(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class WebSocket(Protocol):
    """The client's connection from a WebSocket handshake on."""

    @property
    def disconnected(self) -> bool:
        """Whether the client has disconnected."""

    def end(self) -> None:
        """End the connection because its access has ended."""

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Refuse the handshake."""

    async def join(self, headers: Headers, upstream: asyncio.Transport, received: bytes) -> None:
        """Accept the handshake, then pass bytes both ways until both sides have closed."""
