"""One request and its response on a client's connection."""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from uvicorn.protocols.http import httptools_impl

logger = logging.getLogger(__name__)

BODY_JOIN_BYTES = 16 * 1024
END_SECONDS = 0.5


class Connection(Protocol):
    """The client's connection, as far as a response needs it."""

    loop: asyncio.AbstractEventLoop
    idle_seconds: float

    def break_off(self, *, seconds: float | None = None) -> None:
        """Close the connection in a way that shows the client that its response is incomplete.

        What was sent before may leave for as long as the client reads it, or for `seconds`.
        """


class RequestResponseCycle(httptools_impl.RequestResponseCycle):
    """uvicorn's cycle, with idle timeouts and with incomplete responses that the client can recognise."""

    has_no_body = False  # HEAD requests, and the statuses 204 and 304
    ends_by_close = False
    _head = b""
    _callback: Callable[[], None] | None = None

    def __init__(self, connection: Connection, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.connection = connection

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` once if the client disconnects before its response is complete."""
        self._callback = callback
        if self.disconnected:
            self.connection.loop.call_soon(self.client_disconnected)

    def end(self) -> None:
        """End an incomplete response now, even if the client does not read what was sent before."""
        self.connection.break_off(seconds=END_SECONDS)

    def client_disconnected(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None and not self.response_complete:
            callback()

    async def run_asgi(self, app: Any) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self.connection.break_off()
            raise
        except Exception as error:  # noqa: BLE001  (an error's message may quote the request: log its type only)
            logger.error("request_failed kind=%s", type(error).__name__)  # noqa: TRY400
        finally:
            self._callback = None
        if self.response_complete or self.disconnected:
            return
        if self.response_started:
            self.connection.break_off()
        else:
            await self.send_500_response()

    async def receive(self) -> Any:
        """ASGI's `receive`. Aborts the connection if no body arrives for `idle_seconds`."""
        if self.message_event.is_set() or not self.more_body:
            return await super().receive()
        deadline = self.connection.loop.call_later(self.connection.idle_seconds, self.transport.abort)
        try:
            return await super().receive()
        finally:
            deadline.cancel()

    async def send(self, message: Any) -> None:
        """ASGI's `send`. Waits while the client's socket is full, and does nothing after a disconnect.

        Raises `RuntimeError` for messages out of order, and `ValueError` for headers with line breaks and for bodies
        that are not as long as their Content-Length.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.response_started:
            self._send_head(message["status"], message.get("headers", ()), message.get("strake.reason"))
        elif kind == "http.response.body" and self.response_started and not self.response_complete:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            _raise_out_of_order(kind)

    def _send_head(self, status: int, headers: Any, reason: bytes | None) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        self.has_no_body = self.has_no_body or status in {204, 304}
        length: int | None = None
        chunked = closes = False
        if reason is None:
            lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        else:
            lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
        for original_name, value in headers:
            name = original_name.lower()  # Django sends `Content-Length`
            if name == b"content-length":
                if status == http.HTTPStatus.NO_CONTENT:
                    continue  # RFC 9110 §8.6
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
            elif name == b"connection":
                closes = True
                self.keep_alive = False
            if b"\n" in value or b"\r" in value or b"\n" in name or b"\r" in name:
                raise ValueError("A response header contains a line break.")
            lines.append(b"%b: %b\r\n" % (original_name, value))
        if self.has_no_body:
            length = 0
        elif length is None and not chunked:
            if self.scope["http_version"] == "1.0":
                self.ends_by_close = True
            else:
                chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive and not closes:
            lines.append(b"connection: close\r\n")
        self.chunked_encoding = chunked and not self.has_no_body
        self.expected_content_length = length or 0
        lines.append(b"\r\n")
        # Usually the body's first part follows at once, and both leave in one packet. If not, the event loop sends the
        # head alone.
        self._head = b"".join(lines)
        self.connection.loop.call_soon(self.flush_head)

    def flush_head(self) -> None:
        """Write the head if it has not left yet."""
        if self._head:
            self._write(b"")

    def _write(self, data: bytes) -> None:
        head, self._head = self._head, b""
        self.transport.write(head + data if head else data)

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self.has_no_body:
            pass
        elif self.chunked_encoding:
            self._send_chunk(body, more=more)
        else:
            if not self.ends_by_close:
                self.expected_content_length -= len(body)
                if self.expected_content_length < 0 or (self.expected_content_length and not more):
                    raise ValueError("The length of a response body differs from its Content-Length.")
            if body:
                self._write(body)
        if not more:
            self.flush_head()
            self.response_complete = True
            self.message_event.set()
            self.on_response()

    def _send_chunk(self, body: bytes, *, more: bool) -> None:
        end = b"\r\n" if more else b"\r\n0\r\n\r\n"
        if not body:
            if not more:
                self._write(b"0\r\n\r\n")
        elif len(body) < BODY_JOIN_BYTES:
            self._write(b"%x\r\n%b%b" % (len(body), body, end))
        else:
            self._write(b"%x\r\n" % len(body))
            self.transport.write(body)
            self.transport.write(end)


_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in http.HTTPStatus
}


def _raise_out_of_order(kind: str) -> NoReturn:
    raise RuntimeError(f"The ASGI message {kind} is out of order.")
