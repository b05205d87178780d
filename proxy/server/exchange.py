"""One request of a client and its response."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any

from accounts import request_ids
from proxy.http.names import CONNECTION, CONTENT_LENGTH, NAMES, TRANSFER_ENCODING, Headers
from proxy.server.head import RequestParser
from proxy.server.interfaces import Connection, WebSocket
from proxy.server.run import Run

logger = logging.getLogger(__name__)

BODY_JOIN_BYTES = 16 * 1024
# What arrives of a request body while nobody reads it. Beyond that, the client waits. uvloop reads as much at once.
BUFFER_BYTES = 256 * 1024
END_SECONDS = 0.5
_CR, _LF = b"\r\n"
_WITHOUT_BODY = frozenset({204, 304})
_FRAMING = CONNECTION | CONTENT_LENGTH | TRANSFER_ENCODING
_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}


class ClientDisconnected(Exception):
    """The client has closed its connection."""


class Exchange:
    """A request whose `head` has been parsed, with the means to read its body and to respond.

    `headers` are raw pairs with lower-case names. Those of them that may pass to a provider are in `passing` too, with
    names as the client spelled them. `kinds` is what they are together (`proxy.http.names`). `listener` and `client`
    are the addresses of both sides: a pair of host and port, or the path of a Unix socket and None. `is_internal`
    requests come from the web half, which may say whose they are.

    `websocket` is set for a WebSocket handshake. Then nothing else here is used to respond.
    """

    # The usual values, so that a request costs no more than what is special about it.
    websocket: WebSocket | None = None
    asks_for_upgrade = False
    disconnected = False  # nothing more can be sent
    client_left = False
    more_body = True
    response_started = False
    response_complete = False
    ends_by_close = False
    _has_no_body = False  # HEAD requests, and the statuses 204 and 304
    _is_chunked = False
    _left = 0  # bytes of the response that its Content-Length announces
    _head = b""
    _buffered = 0
    _run: Run | None = None

    def __init__(self, connection: Connection, head: RequestParser) -> None:
        self.connection = connection
        self.transport = connection.transport
        self.method = head.method
        self.target = head.target
        self.path, _, self.query = head.target.partition(b"?")
        self.headers = head.headers
        self.passing = head.passing
        self.kinds = head.kinds
        self.is_http_1_0 = head.is_http_1_0
        self.keep_alive = head.keeps_alive
        self._expects_continue = head.expects_continue
        self._body: list[bytes] = []
        self._arrived = connection.arrived
        if head.method == "HEAD":
            self._has_no_body = True

    @property
    def listener(self) -> tuple[str, int | None]:
        return self.connection.listener

    @property
    def client(self) -> tuple[str, int] | None:
        return self.connection.client

    @property
    def is_internal(self) -> bool:
        return self.connection.is_internal

    # --- The application ---------------------------------------------------------------------------------------------

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run the application."""
        run = self._run = Run(coroutine, self._ended)
        self.connection.tasks.add(run)
        run.go_on()

    def cancel(self) -> None:
        """Raise `CancelledError` in the application."""
        if self._run is not None:
            self._run.cancel()

    def _ended(self, error: BaseException | None) -> None:
        run, self._run = self._run, None
        self.connection.tasks.discard(run)
        if isinstance(error, asyncio.CancelledError):
            self.connection.break_off()
            return
        more: Headers = []
        if error is not None:  # its message may quote the request: log its type only
            found = request_ids.new()
            logger.error("request_failed kind=%s", type(error).__name__, extra={"request_id": found})
            more = [(b"x-request-id", found.encode())]
        if self.response_complete or self.disconnected:
            return
        if self.response_started:
            self.connection.break_off()
        else:
            headers = [(b"content-type", b"text/plain"), (b"connection", b"close"), *more]
            self.respond(500, headers, b"Internal Server Error")

    def leave(self, *, client_left: bool) -> None:
        """Nothing more can be sent: the client has left, or its connection is broken off."""
        self.disconnected = True
        self._expects_continue = False
        if client_left and not self.response_complete:
            self.client_left = True
        self._arrived.set()
        self.connection.writable.set()
        if self.client_left:
            self.cancel()

    # --- The request body --------------------------------------------------------------------------------------------

    def received(self, body: bytes) -> None:
        """Keep a part of the body that has arrived. The connection sets `arrived` afterwards."""
        self._body.append(body)
        self._buffered += len(body)
        if self._buffered > BUFFER_BYTES:
            self.connection.pause_reading()

    async def read(self) -> bytes:
        """Return the part of the body that has arrived, or wait for some. `more_body` tells if this was its end.

        Aborts the connection if nothing arrives for `idle_seconds`. Raises `ClientDisconnected`.
        """
        if self._expects_continue:
            self._expects_continue = False
            if not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._buffered > BUFFER_BYTES:
            self.connection.resume_reading()
        if self.more_body and not self._body and not self.disconnected:
            await self._wait_for_body()
        return self.take()

    def take(self) -> bytes:
        """Return the part of the body that has arrived. Raises `ClientDisconnected`."""
        if self.disconnected or self.response_complete:
            raise ClientDisconnected
        body, self._body = self._body, []
        self._buffered = 0
        return body[0] if len(body) == 1 else b"".join(body)

    async def _wait_for_body(self) -> None:
        self.connection.resume_reading()
        deadline = self.connection.loop.call_later(self.connection.idle_seconds, self.transport.abort)
        try:
            while self.more_body and not self._body and not self.disconnected:
                await self._arrived
        finally:
            deadline.cancel()

    # --- The response ------------------------------------------------------------------------------------------------

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response. Adds its Content-Length unless it is there."""
        if not any(NAMES[name].kinds & CONTENT_LENGTH for name, _ in headers):
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        self.begin_response(status, headers)
        self.send(body, more=False)

    def begin_response(
        self, status: int, headers: Headers, reason: bytes | None = None, *, more_lines: bytes = b""
    ) -> None:
        """Prepare the head of the response. It leaves with the first part of the body, or by `flush`.

        `more_lines` are encoded headers to add. Does nothing after a disconnect. Raises `ValueError` for headers with
        line breaks.
        """
        if self.disconnected:
            return
        self.response_started = True
        self._expects_continue = False
        if status in _WITHOUT_BODY:
            self._has_no_body = True
            if status == 204:  # RFC 9110 §8.6
                headers = [pair for pair in headers if not NAMES[pair[0]][2] & CONTENT_LENGTH]
        length = b""
        kinds = 0
        lines = []
        for pair in headers:
            kind = NAMES[pair[0]][2]
            if kind & _FRAMING:
                kinds |= kind
                if kind & CONTENT_LENGTH:
                    length = pair[1]
            lines.append(b": ".join(pair))
        if kinds & CONNECTION:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close")
        if self._has_no_body:
            pass
        elif kinds & CONTENT_LENGTH:
            self._left = int(length)
        elif kinds & TRANSFER_ENCODING or not self.is_http_1_0:
            self._is_chunked = True
            if not kinds & TRANSFER_ENCODING:
                lines.append(b"transfer-encoding: chunked")
        else:
            self.ends_by_close = True
        text = b"".join(lines)
        if _CR in text or _LF in text:
            raise ValueError("A response header contains a line break.")
        lines.append(more_lines)
        if reason is None:
            status_line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        else:
            status_line = b"HTTP/1.1 %d %b\r\n" % (status, reason)
        self._head = b"%b%b\r\n" % (status_line, b"\r\n".join(lines))

    @property
    def is_full(self) -> bool:
        """Whether the client's socket takes no more. Then wait for `drained` before sending."""
        return self.connection.is_full and not self.disconnected

    async def drained(self) -> None:
        """Wait until the client takes more, or has left."""
        while self.is_full:
            await self.connection.writable

    def flush(self) -> None:
        """Send the head if it has not left yet: the body is not there."""
        if self._head:
            head, self._head = self._head, b""
            self.transport.write(head)

    def send(self, body: bytes, *, more: bool) -> None:
        """Send a part of the response's body. The last one ends the exchange. Does nothing after a disconnect.

        Raises `ValueError` if the body is not as long as its Content-Length.
        """
        if self.disconnected:
            return
        if not (self._is_chunked or self._has_no_body or self.ends_by_close):
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise ValueError("The length of a response body differs from its Content-Length.")
        head, self._head = self._head, b""
        if self._has_no_body:
            data = head
        elif self._is_chunked:
            end = b"\r\n" if more else b"\r\n0\r\n\r\n"
            if len(body) >= BODY_JOIN_BYTES:
                self.transport.write(b"%b%x\r\n" % (head, len(body)))
                self.transport.write(body)
                data = end
            elif body:
                data = b"%b%x\r\n%b%b" % (head, len(body), body, end)
            else:
                data = head if more else head + b"0\r\n\r\n"
        else:
            data = head + body if head else body
        if data:
            self.transport.write(data)
        if not more:
            self.response_complete = True
            self.connection.on_response_complete()

    def end(self) -> None:
        """End an incomplete response now, even if the client does not read what was sent before."""
        self.connection.break_off(seconds=END_SECONDS)
