"""The HTTP/1.1 server: uvicorn's httptools protocol, as strict as forwarding requires.

It differs from uvicorn's in these points:

* Requests have one interpretation. The target must be in origin form and is kept as sent. There must be exactly one
  Host. `chunked` is the only transfer coding, and HTTP/1.0 has none. Trailers are dropped. Requests are not pipelined.
  A second parser behind this one must not see two requests where this one saw one.
* Timeouts and limits. A request head must arrive within `HEAD_SECONDS` and is limited in size. A request body that
  stops arriving, or a client that stops reading, is cut off after `idle_seconds`. The duration of a response is
  unlimited.
* Disconnects are always noticed, even while reading is paused for back-pressure, and are reported to a callback
  (`scope["extensions"]["strake.response"].on_disconnect`), so that no task has to wait for them.
* A client that only closes its sending side behind a request gets its response. A client that has left looks the same,
  until it is sent something: its kernel then resets the connection. So it is sent an interim response, which every
  client of HTTP/1.1 must expect (RFC 9110 §15.2).
* Names of headers stay as the client spelled them, beside those in lower case: `scope["extensions"]["strake.names"]`.
* An incomplete response is recognisable, even to HTTP/1.0 clients, which do not know chunks.
* A response sent before the request was read completely does arrive: closing at once would reset the connection.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast
from urllib.parse import unquote

import httptools
from django.conf import settings
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy import transports
from proxy.server import refusals
from proxy.server.asgi import Application, Scope
from proxy.server.response import RequestResponseCycle
from proxy.server.websocket import WebSocketProtocol

HEAD_SECONDS = 20.0
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256
LINGER_SECONDS = 5.0
# Longer than clients and proxies in front keep idle connections, so that no request meets one that is being closed:
# Caddy 120 s, Go and Rust's reqwest 90 s, nginx and the load balancers of AWS 60 s, Python's and Node's clients 5 s.
KEEPALIVE_SECONDS = 150
POLL_SECONDS = 0.25  # poll interval for detecting a disconnect while nothing is read
FIRST_POLL_SECONDS = 0.01  # after a client has closed its sending side

_CHECKED = frozenset({b"expect", b"host", b"transfer-encoding"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class Refused(Exception):
    """The request is refused with this status. Raised inside parser callbacks."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Pipelined(Exception):
    """The client sent a second request before the response to its first. Raised inside parser callbacks.

    The first gets its response, then the connection closes. Clients must expect that (RFC 9112 §9.3.2).
    """


class _BodyCallbacks:
    """The callbacks of a parser that reads only a request body."""

    def __init__(self, protocol: HTTPProtocol) -> None:
        self._begun = False
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_message_begin(self) -> None:
        if self._begun:
            raise Pipelined
        self._begun = True


class HTTPProtocol(HttpToolsProtocol):
    """One client connection."""

    cycle: RequestResponseCycle
    idle_seconds: float = settings.STRAKE_IDLE_SECONDS
    head_seconds = HEAD_SECONDS
    keepalive_seconds = KEEPALIVE_SECONDS
    is_internal = False  # from the web half, which may say whose request it is: `strake.internal` in the scope

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = self.keepalive_seconds
        self._head_complete = False
        self._names: list[bytes] = []
        self._half_closed = False
        self._head_bytes = 0
        self._host_count = 0
        self._transfer_coding: bytes | None = None
        self._is_websocket = False
        self._discarding_input = False
        self._deadline: asyncio.TimerHandle | None = None  # of a request head, or of lingering
        self._poll: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None

    # --- The connection --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.head_seconds, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        super().connection_lost(exc)
        if self.cycle is not None:
            self.cycle.client_disconnected()

    def data_received(self, data: bytes) -> None:
        if self._discarding_input:
            return
        self._unset_keepalive_if_required()
        behind_head: bytes | None = None
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                behind_head = data[upgrade.args[0] :]
            if behind_head is not None:
                self._upgrade_or_decline(behind_head)
        except httptools.HttpParserError as error:
            reason = error.__context__
            if isinstance(reason, Pipelined):
                self._discarding_input = True
                self.cycle.keep_alive = False
            else:
                if isinstance(reason, Refused):
                    self._refuse(reason.status)
                else:
                    self._refuse(400, "" if self._head_complete else refusals.problem(data))
            return
        if self._is_idle():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431)
            elif self._deadline is None:
                self._deadline = self.loop.call_later(self.head_seconds, self._close)
        elif self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has closed its sending side, or has left. Returns True to go on with the response."""
        if self._is_websocket or self._discarding_input or self._is_idle() or self.cycle.more_body:
            return False
        if not self._probe():
            return False
        if self._poll is not None:
            self._poll.cancel()
        self._poll = self.loop.call_later(FIRST_POLL_SECONDS, self._poll_disconnect)
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(self.idle_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    # --- Parser callbacks ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if not self._is_idle():
            raise Pipelined
        super().on_message_begin()
        self._head_complete = False
        self._is_websocket = False
        self._host_count = 0
        self._transfer_coding = None
        self._names = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_complete:
            return  # a trailer
        self._names.append(name)
        name = name.lower()
        value = value.rstrip(b" \t")
        if name in _CHECKED:
            if name == b"host":
                self._host_count += 1
            elif name == b"transfer-encoding":
                self._transfer_coding = value.lower() if self._transfer_coding is None else b"more than one"
            elif value.lower() == b"100-continue":
                self.expect_100_continue = True
        self._head_bytes += len(name) + len(value)
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_complete = True
        version = self.parser.get_http_version()
        self._check_head(version)
        scope = cast(Scope, self.scope)
        scope["method"] = method = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        raw_path, _, scope["query_string"] = self.url.partition(b"?")
        path = raw_path.decode("ascii")
        scope["raw_path"] = raw_path
        scope["path"] = unquote(path) if "%" in path else path
        scope["extensions"] = {"strake.target": self.url, "strake.names": self._names}
        if self.is_internal:
            scope["extensions"]["strake.internal"] = True
        if self.parser.should_upgrade():
            # A handshake is a GET without a body (RFC 6455 §4.1). Any other request for an upgrade is served as HTTP.
            self._is_websocket = (
                method == "GET" and version == "1.1" and not self._has_body() and self._get_upgrade() == b"websocket"
            )
            if self._is_websocket:
                return
        self.cycle = RequestResponseCycle(
            self,
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version == "1.1" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self.cycle.has_no_body = method == "HEAD"
        scope["extensions"]["strake.response"] = self.cycle
        self._start_asgi_task(self.cycle, self.app)

    def _check_head(self, version: str) -> None:
        if version not in {"1.1", "1.0"}:
            raise Refused(505)
        if self._host_count > 1 or (not self._host_count and version == "1.1"):
            raise Refused(400)
        if self._transfer_coding is not None and (self._transfer_coding != b"chunked" or version == "1.0"):
            raise Refused(501)
        if not self.url.startswith(b"/") or b"#" in self.url:
            raise Refused(400)
        if self._head_bytes + len(self.url) > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            raise Refused(431)
        self._head_bytes = 0

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if self._is_websocket or cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
            if self._poll is None:
                self._poll = self.loop.call_later(POLL_SECONDS, self._poll_disconnect)
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # llhttp ends the message at its head, see `_upgrade_or_decline`
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def _upgrade_or_decline(self, behind_head: bytes) -> None:
        """Handle a request for an upgrade; `behind_head` is what arrived after its head."""
        if self._is_websocket:
            self._cancel_timers()
            self.connections.discard(self)
            application, scope = cast(Application, self.app), cast(Scope, self.scope)
            websocket = WebSocketProtocol(application, scope, self.transport, self.server_state)
            self.transport.set_protocol(websocket)
            if behind_head:
                websocket.data_received(behind_head)
            return
        # A server may ignore an upgrade (RFC 9110 §7.8). curl and Java offer HTTP/2 this way. The request is served as
        # HTTP/1.1, and is the connection's last. llhttp treats its body as data of the other protocol, so another
        # parser reads it.
        self.cycle.keep_alive = False
        framing = b"".join(b"%b: %b\r\n" % pair for pair in self.headers if pair[0] in _FRAMING)
        self.parser = httptools.HttpRequestParser(_BodyCallbacks(self))
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n%b" % (framing, behind_head))

    def _has_body(self) -> bool:
        return any(name in _FRAMING and value.strip(b"0") for name, value in self.headers)

    # --- The end of a response -------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Called after the last byte of a response has been written."""
        if self.cycle.more_body or self._discarding_input:
            self.server_state.total_requests += 1
            self._linger()
        elif self.cycle.keep_alive:
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.transport.close()

    def break_off(self, *, seconds: float | None = None) -> None:
        """Close the connection in a way that shows the client that its response is incomplete.

        What was sent before may leave for as long as the client reads it, or for `seconds`.
        """
        cycle = self.cycle
        cycle.flush_head()
        cycle.disconnected = True
        cycle.message_event.set()
        if cycle.ends_by_close:
            transports.reset(self.transport)
            return
        self.transport.close()
        if seconds is not None:
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = self.loop.call_later(seconds, transports.reset, self.transport)

    def _is_idle(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return not self._is_websocket and (cycle is None or cycle.response_complete)

    def _probe(self) -> bool:
        """Send an interim response once, to see if the client still listens. Returns False if that is not possible."""
        cycle = self.cycle
        if not self._half_closed:
            if cycle.response_started or cycle.response_complete or cycle.scope["http_version"] != "1.1":
                return False
            self._half_closed = True
            cycle.keep_alive = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _poll_disconnect(self) -> None:
        """Abort the connection if the client has left. The event loop does not notice it while nothing is read."""
        self._poll = None
        if not (self.flow.read_paused or self._half_closed) or self.transport.is_closing():
            return
        if transports.is_reset(self.transport) or (transports.has_peer_closed(self.transport) and not self._probe()):
            self.transport.abort()
        else:
            self._poll = self.loop.call_later(POLL_SECONDS, self._poll_disconnect)

    def _refuse(self, status: int, problem: str = "") -> None:
        self._discarding_input = True
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
            cycle.client_disconnected()
            if cycle.response_started:
                self.transport.abort()
                return
        self.transport.write(refusals.response(status, problem))
        self._linger()

    def _linger(self) -> None:
        """Close the sending side, and give the client time to finish: unread data would reset the connection."""
        self._discarding_input = True
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self.transport.write_eof()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(LINGER_SECONDS, self._close)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._poll, self._write_deadline):
            if timer is not None:
                timer.cancel()
        self._deadline = self._poll = self._write_deadline = None
