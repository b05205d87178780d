"""One request and its answer on a connection of strake/server.py: uvicorn's cycle, made to break visibly."""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

if TYPE_CHECKING:
    from strake.server import Protocol

logger = logging.getLogger(__name__)

BODY_JOIN_BYTES = 16 * 1024


class Cycle(RequestResponseCycle):
    """One request and its answer."""

    has_no_body = False  # set for HEAD, and where the status says so
    ends_by_close = False
    _head = b""
    _callback: Callable[[], None] | None = None

    def __init__(self, protocol: Protocol, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.protocol = protocol

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` once if the client leaves before its answer is complete."""
        self._callback = callback
        if self.disconnected:
            self.protocol.loop.call_soon(self.client_left)

    def client_left(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None and not self.response_complete:
            callback()

    async def run_asgi(self, app: Any) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self.protocol.give_up()
            raise
        except Exception as error:  # noqa: BLE001  (the edge: only the kind of an error may reach the log)
            logger.error("request_failed kind=%s", type(error).__name__)  # noqa: TRY400
        finally:
            self._callback = None
        if self.response_complete or self.disconnected:
            return
        if self.response_started:
            self.protocol.give_up()
        else:
            await self.send_500_response()

    async def receive(self) -> Any:
        if self.message_event.is_set() or not self.more_body:
            return await super().receive()
        deadline = self.protocol.loop.call_later(self.protocol.idle_seconds, self.transport.abort)
        try:
            return await super().receive()
        finally:
            deadline.cancel()

    async def send(self, message: Any) -> None:
        """Write a head or a part of a body. Waits while the client takes no more; a client that is gone takes all."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.response_started:
            self._send_head(message["status"], message.get("headers", ()))
        elif kind == "http.response.body" and self.response_started and not self.response_complete:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            _out_of_order(kind)

    def _send_head(self, status: int, headers: Any) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        self.has_no_body = self.has_no_body or status in {204, 304}
        length: int | None = None
        chunked = closes = False
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for given, value in headers:
            name = given.lower()  # Django writes `Content-Length`, and a second framing beside it would be an error
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
            elif name == b"connection":
                closes = True
                self.keep_alive = False
            if b"\n" in value or b"\r" in value or b"\n" in name or b"\r" in name:
                raise ValueError("A line break in a header.")
            lines.append(b"%b: %b\r\n" % (given, value))
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
        # Mostly the beginning of the body is there already: one write less, and one packet less for the client. Where
        # it is not, the head leaves alone, before the event loop waits for anything.
        self._head = b"".join(lines)
        self.protocol.loop.call_soon(self.flush_head)

    def flush_head(self) -> None:
        """Write the head, unless it has left together with a part of the body."""
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
                    raise ValueError("A body of another length than its Content-Length.")
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


def _out_of_order(kind: str) -> NoReturn:
    raise RuntimeError(f"{kind} out of order.")
