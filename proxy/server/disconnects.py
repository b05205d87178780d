"""Notices that a client has left while its connection is not read: the event loop does not.

A client that only closes its sending side behind a request gets its response. A client that has left looks the same,
until it is sent something: its kernel then resets the connection. So it is sent an interim response, which every client
of HTTP/1.1 must expect (RFC 9110 §15.2).
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from proxy import transports
from proxy.server.exchange import Exchange

POLL_SECONDS = 0.25
FIRST_POLL_SECONDS = 0.01  # after a client has closed its sending side


class Connection(Protocol):
    """The client's connection, as far as this needs it."""

    exchange: Exchange | None
    loop: asyncio.AbstractEventLoop
    reading_paused: bool
    transport: asyncio.Transport


class DisconnectPoll:
    """Looks at one connection while it is not read, or its client has closed its sending side."""

    __slots__ = ("_connection", "_half_closed", "_timer")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._half_closed = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, because reading is paused."""
        if self._timer is None:
            self._timer = self._connection.loop.call_later(POLL_SECONDS, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def client_closed_its_side(self) -> bool:
        """Return whether to go on with the response to a client that has closed its sending side or has left."""
        if not self._probe():
            return False
        self.stop()
        self._timer = self._connection.loop.call_later(FIRST_POLL_SECONDS, self._look)
        return True

    def _probe(self) -> bool:
        """Send an interim response once, to see if the client still listens. Returns False if that is not possible."""
        if self._half_closed:
            return True
        exchange = self._connection.exchange
        if exchange is None or exchange.response_started or exchange.response_complete or exchange.is_http_1_0:
            return False
        self._half_closed = True
        exchange.keep_alive = False
        self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _look(self) -> None:
        """Abort the connection if the client has left."""
        self._timer = None
        connection = self._connection
        transport = connection.transport
        if not (connection.reading_paused or self._half_closed) or transport.is_closing():
            return
        if transports.is_reset(transport) or (transports.has_peer_closed(transport) and not self._probe()):
            transport.abort()
        else:
            self.start()
