"""The HTTP/1.1 server: one client connection, as strict as forwarding requires.

llhttp (through httptools) parses, and uvicorn's `Server` accepts and shuts down. What differs from uvicorn's protocol:

* Requests have one interpretation (`proxy.server.head`), and are not pipelined. Names of headers stay as they came.
* The application runs in the callback in which its request arrived, without a task (`proxy.server.run`).
* A request head must arrive within `HEAD_SECONDS`. A request body that stops arriving, or a client that stops reading,
  is cut off after `idle_seconds`. The duration of a response is unlimited.
* Disconnects are noticed even while nothing is read (`proxy.server.disconnects`), and cancel the application.
* An incomplete response is recognisable, even to HTTP/1.0 clients, which do not know chunks.
* A response sent before the request was read completely does arrive: closing at once would reset the connection.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from django.conf import settings
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from proxy import transports
from proxy.server import refusals
from proxy.server.application import Application
from proxy.server.disconnects import DisconnectPoll
from proxy.server.exchange import Exchange
from proxy.server.head import MAX_HEAD_BYTES, Pipelined, Refused, RequestParser
from proxy.server.run import Signal
from proxy.server.websocket import WebSocketProtocol

HEAD_SECONDS = 20.0
LINGER_SECONDS = 5.0
# Longer than clients and proxies in front keep idle connections, so that no request meets one that is being closed:
# Caddy 120 s, Go and Rust's reqwest 90 s, nginx and the load balancers of AWS 60 s, Python's and Node's clients 5 s.
KEEPALIVE_SECONDS = 150


class HTTPProtocol(asyncio.Protocol):
    """One client connection. Created by uvicorn, which calls `shutdown` when the server stops."""

    transport: asyncio.Transport
    idle_seconds: float = settings.STRAKE_IDLE_SECONDS
    head_seconds = HEAD_SECONDS
    keepalive_seconds: float = KEEPALIVE_SECONDS

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_event_loop()
        self.tasks: set[Any] = server_state.tasks
        self.is_full = False  # the client's socket takes no more
        self.arrived = Signal(self.loop)  # a part of a request body
        self.writable = Signal(self.loop)
        self.exchange: Exchange | None = None
        self._application: Application = config.loaded_app
        self._server = server_state
        self._connections: set[Any] = server_state.connections
        self._parser = RequestParser(self)
        self.is_internal = False  # from the web half
        self._is_new = False  # the exchange's application has not been started
        self._is_websocket = False
        self._discards_input = False
        self.reading_paused = False
        self._idle_since = self.loop.time()
        self._deadline: asyncio.TimerHandle | None = None  # of a request head, or of lingering
        self._idle_timer: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._poll = DisconnectPoll(self)

    # --- The connection --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.listener: tuple[str, int | None] = get_local_addr(transport) or ("", None)
        self.client = get_remote_addr(transport)
        self._connections.add(self)
        self._deadline = self.loop.call_later(self.head_seconds, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._cancel_timers()
        self.is_full = False
        if self.exchange is not None:
            self.exchange.leave(client_left=True)

    def data_received(self, data: bytes) -> None:
        if self._discards_input:
            return
        behind_head: bytes | None = None
        try:
            try:
                self._parser.feed(data)
            except httptools.HttpParserUpgrade as upgrade:
                behind_head = data[upgrade.args[0] :]
            if behind_head is not None:
                self._upgrade_or_decline(behind_head)
        except httptools.HttpParserError as error:
            self._cannot_parse(error.__context__, data)
        exchange = self.exchange
        if exchange is not None and self._is_new:
            self._is_new = False
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            exchange.start(self._application.handle(exchange))
        elif exchange is not None and not exchange.response_complete:
            self.arrived.set()
        elif not (self._is_websocket or self._discards_input):
            self._await_head()

    def _await_head(self) -> None:
        """A part of a request head has arrived."""
        self._parser.unfinished = self._parser.received
        if self._parser.received > MAX_HEAD_BYTES:
            self._refuse(431)
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.head_seconds, self.transport.close)

    def _cannot_parse(self, reason: BaseException | None, data: bytes) -> None:
        if isinstance(reason, Pipelined):
            self._discards_input = True
            if self.exchange is not None:
                self.exchange.keep_alive = False
        elif isinstance(reason, Refused):
            self._refuse(reason.status)
        else:
            is_in_body = self.exchange is not None and not self.exchange.response_complete
            self._refuse(400, "" if is_in_body else refusals.problem(data))

    def eof_received(self) -> bool:
        """The client has closed its sending side, or has left. Returns True to go on with the response."""
        exchange = self.exchange
        if exchange is None or self._is_websocket or self._discards_input:
            return False
        if exchange.response_complete or exchange.more_body:
            return False
        return self._poll.client_closed_its_side()

    def pause_writing(self) -> None:
        self.is_full = True
        self._write_deadline = self.loop.call_later(self.idle_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self.is_full = False
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None
        self.writable.set()

    def pause_reading(self) -> None:
        """Take no more from the client for now. Its disconnect is noticed all the same."""
        if not self.reading_paused:
            self.reading_paused = True
            self.transport.pause_reading()
            self._poll.start()

    def resume_reading(self) -> None:
        if self.reading_paused:
            self.reading_paused = False
            self.transport.resume_reading()

    def shutdown(self) -> None:
        """The server stops: close the connection, or let it close behind the response."""
        if self.exchange is None or self.exchange.response_complete:
            self.transport.close()
        else:
            self.exchange.keep_alive = False

    # --- Called by the parser ---------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether a new request may begin."""
        return self.exchange is None or self.exchange.response_complete

    def on_head(self, parser: RequestParser) -> None:
        self.exchange = Exchange(self, parser)
        self._is_websocket = False
        if parser.asks_for_upgrade:
            self.exchange.asks_for_upgrade = True
            self._is_websocket = parser.asks_for_websocket
        self._is_new = not self._is_websocket

    def on_body(self, body: bytes) -> None:
        exchange = self.exchange
        if exchange is not None and not self._is_websocket and not exchange.response_complete:
            exchange.received(body)

    def on_message_complete(self) -> None:
        exchange = self.exchange
        # llhttp ends the message at its head if that asks for an upgrade, see `_upgrade_or_decline`.
        if exchange is not None and not exchange.response_complete and not exchange.asks_for_upgrade:
            exchange.more_body = False

    def _upgrade_or_decline(self, behind_head: bytes) -> None:
        """Handle a request for an upgrade; `behind_head` is what arrived after its head."""
        exchange = self.exchange
        if exchange is None:
            return
        exchange.asks_for_upgrade = False
        if self._is_websocket:
            exchange.more_body = False
            self._cancel_timers()
            self._connections.discard(self)
            WebSocketProtocol(self._application, exchange, self._server, received=behind_head)
            return
        # A server may ignore an upgrade (RFC 9110 §7.8). curl and Java offer HTTP/2 this way. The request is served as
        # HTTP/1.1, and is the connection's last.
        exchange.keep_alive = False
        self._parser.read_body_only(behind_head)

    # --- The end of a response -------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Called after the last byte of a response has been written."""
        self._server.total_requests += 1
        exchange = self.exchange
        if self._discards_input or exchange is None or exchange.more_body:
            self._linger()
        elif not exchange.keep_alive:
            self.transport.close()
        elif not self.transport.is_closing():
            if self.reading_paused:
                self.resume_reading()
            self._idle_since = self.loop.time()
            if self._idle_timer is None:
                self._idle_timer = self.loop.call_later(self.keepalive_seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        """Close the connection if it has been idle for `keepalive_seconds`. One timer serves many requests."""
        self._idle_timer = None
        if self.exchange is None or not self.exchange.response_complete or self._deadline is not None:
            return  # a request or its head is under way, which has deadlines of its own
        left = self._idle_since + self.keepalive_seconds - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._close_if_idle)
        else:
            self.transport.close()

    def break_off(self, *, seconds: float | None = None) -> None:
        """Close the connection in a way that shows the client that its response is incomplete.

        What was sent before may leave for as long as the client reads it, or for `seconds`.
        """
        exchange = self.exchange
        if exchange is not None:
            exchange.flush()
            exchange.leave(client_left=False)
            if exchange.ends_by_close:
                transports.reset(self.transport)
                return
        self.transport.close()
        if seconds is not None:
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = self.loop.call_later(seconds, transports.reset, self.transport)

    def _refuse(self, status: int, problem: str = "") -> None:
        self._discards_input = True
        exchange, is_new = self.exchange, self._is_new
        self._is_new = False
        if exchange is not None and not exchange.response_complete:
            exchange.leave(client_left=True)
            if exchange.response_started:
                self.transport.abort()
                return
            if is_new:
                exchange.response_complete = True  # its application is not started
        self.transport.write(refusals.response(status, problem))
        self._linger()

    def _linger(self) -> None:
        """Close the sending side, and give the client time to finish: unread data would reset the connection."""
        self._discards_input = True
        if self.transport.is_closing():
            return
        self.resume_reading()
        self.transport.write_eof()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _cancel_timers(self) -> None:
        self._poll.stop()
        for timer in (self._deadline, self._idle_timer, self._write_deadline):
            if timer is not None:
                timer.cancel()
        self._deadline = self._idle_timer = self._write_deadline = None
