"""One HTTP/1.1 connection to a provider: writes a request as given, reads answers with llhttp (through httptools).

Nothing is decoded, folded or normalised on the way out, and of an answer only its framing is understood
(RFC 9112 §6): llhttp in its strict mode, so an answer that could be framed in two ways is an error.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from time import monotonic
from typing import Any

import httptools

from proxy.errors import UpstreamInvalid, UpstreamUnreachable

BUFFER_BYTES = 64 * 1024
MAX_HEAD_BYTES = 256 * 1024
RESET = struct.pack("ii", 1, 0)  # linger on, for no time


class UpstreamBroken(Exception):
    """The answer ended before its end, after its head had been passed on. The client must see a broken answer too."""


class UpstreamConnection(asyncio.Protocol):
    """A connection that carries one exchange after another: `begin`, `head`, `read` until `finished`.

    After `head`, `status` and `headers` (raw pairs, as sent) are those of the final answer. `reusable` tells, once
    finished, whether another exchange may follow. `last_activity` is a reading of `time.monotonic`.
    """

    __slots__ = (
        "_behind_head",
        "_bodyless",
        "_buffered",
        "_chunks",
        "_drained",
        "_error",
        "_head_bytes",
        "_head_complete",
        "_loop",
        "_parser",
        "_poll",
        "_read_paused",
        "_until_eof",
        "_upgrade",
        "_waiter",
        "finished_receiving",
        "headers",
        "last_activity",
        "reusable",
        "status",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._read_paused = False
        self.finished_receiving = True
        self.reusable = True
        self.last_activity = monotonic()

    # --- What the transport calls ------------------------------------------------------------------------------------

    def begin(self, data: bytes | bytearray, *, bodyless: bool, upgrade: bool = False) -> None:
        """Start an exchange by sending `data`. `bodyless` answers (to HEAD) have no body, whatever they declare.

        `upgrade` says that `data` asks for another protocol.
        """
        self._parser = httptools.HttpResponseParser(self)
        self._bodyless = bodyless
        self._upgrade = upgrade
        self._behind_head: bytes | None = None
        self._head_complete = False
        self._until_eof = False
        self._head_bytes = 0
        self._chunks: list[bytes] = []
        self._buffered = 0
        self.finished_receiving = False
        self.reusable = False
        self.headers: list[tuple[bytes, bytes]] = []
        self.last_activity = monotonic()
        self.transport.write(data)

    async def head(self) -> None:
        """Wait for the final answer's head. Raises `UpstreamUnreachable`, `UpstreamInvalid`, or what `fail` got."""
        while not self._head_complete:
            if self._error is not None:
                raise self._error
            await self._wait()
        if self.status == 101 and not self._upgrade:
            raise UpstreamInvalid  # nobody asked for another protocol

    async def read(self) -> bytes:
        """The raw bytes of the body that are there, waiting for some if there are none; empty at the end.

        Raises `UpstreamBroken`, or what `fail` got.
        """
        while not self._chunks:
            if self.finished_receiving:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self._buffered = 0
        if self._read_paused:
            self._read_paused = False
            self.last_activity = monotonic()
            self.transport.resume_reading()
        return data

    def detach(self) -> tuple[asyncio.Transport, bytes]:
        """After a 101: the transport, paused, for somebody else's protocol, and what came behind the head.

        Raises `UpstreamInvalid`.
        """
        if self._behind_head is None:
            raise UpstreamInvalid  # a 101 that says no protocol
        return self.transport, self._behind_head

    @property
    def finished(self) -> bool:
        """Whether the whole answer has been read."""
        return self.finished_receiving and not self._chunks

    def is_readable(self) -> bool:
        """Whether the peer of an idle connection has sent something, or closed it, perhaps not noticed here yet."""
        return self.transport.is_closing() or bool(self._poll.poll(0))

    @property
    def is_waiting(self) -> bool:
        """Whether somebody waits for the upstream, and not the upstream for us."""
        return self._waiter is not None and not self._read_paused

    async def write(self, data: bytes) -> None:
        """Send more of the request; returns when the transport takes more. Raises `UpstreamUnreachable`."""
        if self._error is not None:
            raise UpstreamUnreachable
        self.last_activity = monotonic()
        self.transport.write(data)
        if self._drained is not None:
            await self._drained
            self.last_activity = monotonic()

    def fail(self, error: Exception) -> None:
        """End the exchange with `error` for whoever waits, and close."""
        if self._error is None:
            self._error = error
        self.abort()
        self._wake()

    def abort(self) -> None:
        """Reset the connection. A mere close would wait behind what an upstream that reads nothing has not taken."""
        self.reusable = False
        connection = self.transport.get_extra_info("socket")
        if connection is not None and not self.transport.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()

    # --- What the event loop calls -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        self.last_activity = monotonic()
        if self.finished_receiving:
            # Bytes that belong to no request: this connection is no good for another.
            self.abort()
            return
        if not self._head_complete:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgraded:
            self._behind_head = data[upgraded.args[0] :]
            self.transport.pause_reading()
        except httptools.HttpParserError:
            self.reusable = False
            if not self.finished_receiving:
                self.fail(UpstreamBroken() if self._head_complete else UpstreamInvalid())
                return
        if not self._head_complete and self._head_bytes > MAX_HEAD_BYTES:
            self.fail(UpstreamInvalid())
            return
        if self._buffered > BUFFER_BYTES and not self._read_paused and not self.finished_receiving:
            self._read_paused = True
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        if not self.finished_receiving:
            if self._head_complete and self._until_eof and error is None and self._error is None:
                self.finished_receiving = True
            elif self._error is None:
                self._error = UpstreamBroken() if self._head_complete else UpstreamUnreachable()
        elif self._error is None:
            self._error = UpstreamUnreachable()
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    # --- What the parser calls ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._head_complete:
            raise UpstreamInvalid  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_complete:  # else a trailer, which is dropped
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        self.status = status = parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return  # an interim answer; the final one follows
        codings = [value for name, value in self.headers if name.lower() == b"transfer-encoding"]
        if codings and [coding.strip().lower() for coding in codings] != [b"chunked"]:
            raise UpstreamInvalid  # only this hop could undo it
        self._head_complete = True
        self.reusable = parser.should_keep_alive()
        if status == 101:
            self.reusable = False
        elif self._bodyless:
            self.finished_receiving = True
        elif not self.reusable:
            names = {name.lower() for name, _ in self.headers}
            self._until_eof = not names & {b"content-length", b"transfer-encoding"}

    def on_body(self, data: bytes) -> None:
        if self.finished_receiving:
            self.reusable = False  # a body where there is none, in answer to HEAD
            return
        self._chunks.append(data)
        self._buffered += len(data)

    def on_message_complete(self) -> None:
        if self._head_complete:
            self.finished_receiving = True
        else:
            self.headers = []

    # --- Inside ------------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
