"""The server side of HTTP/1.1: uvicorn's httptools protocol, made strict where forwarding depends on it.

What is added, and why:

* One reading only. The target must be in origin form and stays as it was sent; exactly one Host; `chunked` or nothing
  as transfer coding, and never in HTTP/1.0; trailers never become headers; no second request before the first one is
  answered. Two parsers in a row must not see two different requests.
* Deadlines and bounds. A head has to arrive within `HEAD_SECONDS` and be of modest size; a body or a reader that stands
  still for `IDLE_SECONDS` is cut off. There is no limit on the whole of a stream.
* Leaving is noticed always, also while reading is paused for back-pressure, and told by a callback
  (`scope["extensions"]["strake.on_disconnect"]`), so that no task has to wait for it.
* A broken answer looks broken, also to HTTP/1.0 clients, who know no chunks.
* What is answered before a request was read to its end arrives: closing at once would reset the connection under it.
"""

from __future__ import annotations

import asyncio
import http
import logging
import select
import socket
import struct
from typing import Any, cast
from urllib.parse import unquote

import httptools
from django.conf import settings
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from strake.cycle import Cycle

logger = logging.getLogger(__name__)

HEAD_SECONDS = 20.0
HEAD_BYTES = 64 * 1024
HEAD_FIELDS = 256
LINGER_SECONDS = 5.0
PAUSED_SECONDS = 0.25

_WATCHED = frozenset({b"expect", b"host", b"transfer-encoding"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_REFUSALS = {
    400: "This is not a well-formed HTTP/1.1 request.",
    431: "The request's headers are too large.",
    501: "This transfer coding is not supported.",
    505: "Use HTTP/1.1.",
}


class Refused(Exception):
    """A head that is not going to be served. Raised inside parser callbacks."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Pipelined(Exception):
    """A second request before the first one is answered. The first is answered, then the connection closes.

    Clients have to expect that (RFC 9112 §9.3.2), and nobody can hide a request behind another one.
    """


class _Body:
    """What a parser calls that reads the body of a request whose head is known."""

    def __init__(self, protocol: Protocol) -> None:
        self._begun = False
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_message_begin(self) -> None:
        if self._begun:
            raise Pipelined
        self._begun = True


class Protocol(HttpToolsProtocol):
    """One client connection."""

    cycle: Cycle
    idle_seconds: float = settings.STRAKE_IDLE_SECONDS
    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_complete = False
        self._head_bytes = 0
        self._hosts = 0
        self._coding: bytes | None = None
        self._websocket = False
        self._deaf = False  # whatever else arrives is dropped
        self._deadline: asyncio.TimerHandle | None = None  # of a head, or of lingering
        self._paused_check: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None

    # --- The connection --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.head_seconds, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        super().connection_lost(exc)
        if self.cycle is not None:
            self.cycle.client_left()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        behind_head: bytes | None = None
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgraded:
                behind_head = data[upgraded.args[0] :]
            if behind_head is not None:
                self._upgrade_or_decline(behind_head)
        except httptools.HttpParserError as error:
            reason = error.__context__
            if isinstance(reason, Pipelined):
                self._deaf = True
                self.cycle.keep_alive = False
            else:
                self._refuse(reason.status if isinstance(reason, Refused) else 400)
            return
        if self._is_idle():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431)
            elif self._deadline is None:
                self._deadline = self.loop.call_later(self.head_seconds, self._close)
        elif self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(self.idle_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    # --- What the parser finds -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if not self._is_idle():
            raise Pipelined
        super().on_message_begin()
        self._head_complete = False
        self._websocket = False
        self._hosts = 0
        self._coding = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_complete:
            return  # a trailer
        name = name.lower()
        value = value.rstrip(b" \t")
        if name in _WATCHED:
            if name == b"host":
                self._hosts += 1
            elif name == b"transfer-encoding":
                self._coding = value.lower() if self._coding is None else b"more than one"
            elif value.lower() == b"100-continue":
                self.expect_100_continue = True
        self._head_bytes += len(name) + len(value)
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_complete = True
        version = self.parser.get_http_version()
        self._check_head(version)
        scope = self.scope
        scope["method"] = method = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        raw_path, _, scope["query_string"] = self.url.partition(b"?")
        path = raw_path.decode("ascii")
        scope["raw_path"] = raw_path
        scope["path"] = unquote(path) if "%" in path else path
        if self.parser.should_upgrade():
            # A handshake is a GET without a body (RFC 6455 §4.1). Whatever else offers WebSocket is answered as HTTP.
            self._websocket = method == "GET" and version == "1.1" and not self._has_body() and self._should_upgrade()
            if self._websocket:
                return
        self.cycle = Cycle(
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
        extensions: dict[str, Any] = {"strake.on_disconnect": self.cycle.on_disconnect, "strake.target": self.url}
        scope["extensions"] = extensions
        self._start_asgi_task(self.cycle, self.app)

    def _check_head(self, version: str) -> None:
        if version not in {"1.1", "1.0"}:
            raise Refused(505)
        if self._hosts > 1 or (not self._hosts and version == "1.1"):
            raise Refused(400)
        if self._coding is not None and (self._coding != b"chunked" or version == "1.0"):
            raise Refused(501)
        if not self.url.startswith(b"/") or b"#" in self.url:
            raise Refused(400)
        if self._head_bytes + len(self.url) > HEAD_BYTES or len(self.headers) > HEAD_FIELDS:
            raise Refused(431)
        self._head_bytes = 0

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if self._websocket or cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
            if self._paused_check is None:
                self._paused_check = self.loop.call_later(PAUSED_SECONDS, self._check_paused)
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # llhttp takes what follows for another protocol's; see below
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def _upgrade_or_decline(self, rest: bytes) -> None:
        """The head offered another protocol. `rest` came behind it."""
        if self._websocket:
            self._cancel_timers()
            self.handle_websocket_upgrade()
            if rest:
                cast("asyncio.Protocol", self.transport.get_protocol()).data_received(rest)
            return
        # Declined, as any server may: curl and Java offer HTTP/2 like that. The request is answered in HTTP/1.1 and is
        # the connection's last. llhttp would have its body be the other protocol's, so a fresh parser reads that.
        self.cycle.keep_alive = False
        framing = b"".join(b"%b: %b\r\n" % pair for pair in self.headers if pair[0] in _FRAMING)
        self.parser = httptools.HttpRequestParser(_Body(self))
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n%b" % (framing, rest))

    def _has_body(self) -> bool:
        return any(name in _FRAMING and value.strip(b"0") for name, value in self.headers)

    # --- Its end ---------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """The last byte of an answer has been written."""
        if self.cycle.more_body or self._deaf:
            self.server_state.total_requests += 1
            self._linger()
        elif self.cycle.keep_alive:
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.transport.close()

    def give_up(self) -> None:
        """Break the connection off so that its client cannot take what it got for the whole."""
        cycle = self.cycle
        cycle.flush_head()
        cycle.disconnected = True
        cycle.message_event.set()
        if cycle.ends_by_close:
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close means reset
            self.transport.abort()
        else:
            self.transport.close()

    def _is_idle(self) -> bool:
        cycle = cast("Cycle | None", self.cycle)
        return not self._websocket and (cycle is None or cycle.response_complete)

    def _check_paused(self) -> None:
        """While nothing is read, the event loop does not see a client leave; the socket knows it."""
        self._paused_check = None
        if not self.flow.read_paused or self.transport.is_closing():
            return
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        if poll.poll(0):
            self.transport.abort()
        else:
            self._paused_check = self.loop.call_later(PAUSED_SECONDS, self._check_paused)

    def _refuse(self, status: int) -> None:
        self._deaf = True
        cycle = cast("Cycle | None", self.cycle)
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
            cycle.client_left()
            if cycle.response_started:
                self.transport.abort()
                return
        text = b'{"error": {"message": "%b", "type": "invalid_request_error", "param": null, "code": "bad_request"}}'
        text %= _REFUSALS[status].encode()
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"x-strake-error: bad_request\r\nconnection: close\r\n\r\n%b"
            % (status, http.HTTPStatus(status).phrase.encode(), len(text), text)
        )
        self._linger()

    def _linger(self) -> None:
        """Say that nothing more comes, and let the client finish, so that unread data does not reset the connection."""
        self._deaf = True
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
        for timer in (self._deadline, self._paused_check, self._write_deadline):
            if timer is not None:
                timer.cancel()
        self._deadline = self._paused_check = self._write_deadline = None
