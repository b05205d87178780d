"""HTTP/1.1 on one connection to a provider.

Requests are written as given, without decoding or normalising. Responses are parsed by llhttp (through httptools) in
its strict mode: a response that could be framed in two ways (RFC 9112 §6) is an error.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator
from time import monotonic

import httptools

from proxy import transports
from proxy.connect_failures import UpstreamWrongScheme
from proxy.errors import UpstreamInvalid, UpstreamUnreachable
from proxy.server.run import Signal
from proxy.upstream.received import ReceivedResponse
from proxy.upstream.remainder import Remainder

BUFFER_BYTES = 64 * 1024
MAX_HEAD_BYTES = 256 * 1024
# The least that is sent at once before the provider can have answered. Only what is larger can fail to leave.
SEND_BYTES = 16 * 1024
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")  # an alert, a handshake: what a TLS server says to plain HTTP


class UpstreamBroken(Exception):
    """The response was cut short after its head had been forwarded, so the client must see a cut response too."""


class UpstreamConnection(ReceivedResponse, asyncio.Protocol):
    """A connection that carries one exchange after another: `begin`, `head`, then `take` and `wait` until `finished`.

    After `head`, `status`, `reason` and `headers` (raw pairs, as sent) are those of the final response, and `kinds` is
    what the headers are (`proxy.http.names`). `began_at` and `last_activity` are readings of `time.monotonic`.

    A provider may answer before it has read the whole request, and close: a 413 or 401, say. Its kernel then resets the
    connection, and sending fails while the answer is still unread. So after such a failure, what has arrived is read.
    """

    __slots__ = (
        "_arrived",
        "_behind_head",
        "_drained",
        "_error",
        "_head_bytes",
        "_loop",
        "_lost",
        "_poll",
        "_read_paused",
        "_remainder",
        "_upgrade",
        "_upload",
        "began_at",
        "last_activity",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._arrived = Signal(loop)  # a head, a part of a body, or the end
        self._drained: asyncio.Future[None] | None = None
        self._upload: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._read_paused = False
        self._lost = False
        self.last_activity = monotonic()

    # --- Called by the pool ------------------------------------------------------------------------------------------

    def begin(self, data: bytes | bytearray, *, bodyless: bool, upgrade: bool) -> None:
        """Start an exchange by sending `data`, a request with its body or the head of one that `upload` sends.

        `bodyless` responses (to HEAD) have no body, whatever they declare. `upgrade`: the request asks for another
        protocol.
        """
        self.expect(bodyless=bodyless)
        self._upgrade = upgrade
        self._behind_head: bytes | None = None
        self._upload = None
        self._head_bytes = 0
        self.began_at = self.last_activity = monotonic()
        if len(data) > SEND_BYTES:
            self._remainder.keep()
        self.transport.write(data)

    def upload(self, body: AsyncIterator[bytes | bytearray], *, chunked: bool) -> None:
        """Send the body of the request in the background. If `body` raises, the exchange fails with its error."""
        self._remainder.keep()
        self._upload = self._loop.create_task(self._send_body(body, chunked=chunked))
        self._upload.add_done_callback(self._upload_done)

    async def head(self) -> None:
        """Wait for the head of the final response.

        Raises `UpstreamUnreachable`, `UpstreamInvalid`, or the error passed to `fail`.
        """
        while not self.head_complete:
            if self._error is not None:
                raise self._error
            await self._arrived
        if self.status == 101 and not self._upgrade:
            raise UpstreamInvalid  # the request asked for no upgrade

    def take(self) -> bytes:
        """Return the part of the body that has arrived, or b"".

        Raises `UpstreamBroken`, or the error passed to `fail`.
        """
        chunks = self.chunks
        if not chunks:
            if self._error is not None and not self.finished_receiving:
                raise self._error
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered = 0
        if self._read_paused:
            self._read_paused = False
            self.last_activity = monotonic()
            self.transport.resume_reading()
        return data

    async def wait(self) -> None:
        """Wait until `take` returns something or raises, or the response is `finished`."""
        while not self.chunks and not self.finished_receiving and self._error is None:
            await self._arrived

    def detach(self) -> tuple[asyncio.Transport, bytes]:
        """After a 101, return the transport, with reading paused, and the bytes received after the head.

        Raises `UpstreamInvalid` if the response names no protocol.
        """
        if self._behind_head is None:
            raise UpstreamInvalid
        return self.transport, self._behind_head

    @property
    def is_reusable(self) -> bool:
        """Whether another exchange may follow: this one is over in both directions, and the provider keeps it open."""
        upload = self._upload
        received = self.finished_receiving and not self.chunks
        return self.keep_alive and received and (upload is None or (upload.done() and not upload.cancelled()))

    def is_readable(self) -> bool:
        """Whether an idle connection has received data or was closed, even before the event loop has noticed."""
        return self.transport.is_closing() or bool(self._poll.poll(0))

    @property
    def is_waiting(self) -> bool:
        """Whether the exchange waits for the provider, rather than for the client."""
        return self._arrived.is_awaited and not self._read_paused

    def fail(self, error: Exception) -> None:
        """Abort the exchange: `head` and `read` raise `error`."""
        if self._error is None:
            self._error = error
        self.abort()
        self._arrived.set()

    def abort(self) -> None:
        """Reset the connection, and stop sending. A provider in the middle of a response stops generating it."""
        self.keep_alive = False
        if self._upload is not None:
            self._upload.cancel()
        if self.transport.is_closing():
            self.transport.abort()
        else:
            transports.reset(self.transport)

    # --- Called by the event loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._remainder = Remainder(self.transport)
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        self.last_activity = monotonic()
        if self.finished_receiving:
            self.abort()  # data that belongs to no request would be taken for the next response
            return
        if not self._parse(data):
            return
        if self._remainder.is_kept and self._has_sent_all():
            self._remainder.drop()
        if self.buffered > BUFFER_BYTES and not self._read_paused and not self.finished_receiving:
            self._read_paused = True
            self.transport.pause_reading()
        self._arrived.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._read_paused = False
        self.keep_alive = False
        is_sending = self._upload is not None and not self._upload.done()
        if not self.finished_receiving and error is not None and self._error is None:
            for data in self._remainder.read():
                if not self._parse(data) or self.finished_receiving:
                    break
        if not self.finished_receiving:
            # Without a length, an answer ends with the connection. If it is an early refusal, by a reset.
            ends_here = self.head_complete and self.until_eof
            if ends_here and self._error is None and (error is None or (is_sending and self.status >= 400)):
                self.finished_receiving = True
            elif self._error is None:
                kind = type(error).__name__ if error is not None else "closed"
                self._error = UpstreamBroken() if self.head_complete else UpstreamUnreachable(kind)
        elif self._error is None:
            self._error = UpstreamUnreachable()
        if self._upload is not None:
            self._upload.cancel()
        self._remainder.drop()
        self.resume_writing()
        self._arrived.set()

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    # --- Internals ---------------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> bool:
        """Feed the parser. Returns False after a failure of the exchange."""
        if not self.head_complete:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgraded:
            self._behind_head = data[upgraded.args[0] :]
            if not self._lost:
                self.transport.pause_reading()
        except httptools.HttpParserError:
            self.keep_alive = False
            if not self.finished_receiving:
                self.fail(UpstreamBroken() if self.head_complete else self._not_http(data))
                return False
        if not self.head_complete and self._head_bytes > MAX_HEAD_BYTES:
            self.fail(UpstreamInvalid())
            return False
        return True

    def _not_http(self, data: bytes) -> Exception:
        if not self._remainder.is_tls and self._head_bytes == len(data) and data.startswith(_TLS_RECORDS):
            return UpstreamWrongScheme("TLS record")
        return UpstreamInvalid()

    def _has_sent_all(self) -> bool:
        return (self._upload is None or self._upload.done()) and not self.transport.get_write_buffer_size()

    async def _send_body(self, body: AsyncIterator[bytes | bytearray], *, chunked: bool) -> None:
        async for chunk in body:
            if not chunk:
                continue
            if chunked:
                await self._write(b"%x\r\n" % len(chunk))
            await self._write(chunk)
            if chunked:
                await self._write(b"\r\n")
        if chunked:
            await self._write(b"0\r\n\r\n")

    async def _write(self, data: bytes | bytearray) -> None:
        """Send a part of a body, and wait while the provider takes no more. Raises `UpstreamUnreachable`."""
        if self._error is not None or self._lost:
            raise UpstreamUnreachable
        self.last_activity = monotonic()
        self.transport.write(data)
        if self._drained is not None:
            await self._drained
            self.last_activity = monotonic()

    def _upload_done(self, upload: asyncio.Task[None]) -> None:
        if not upload.cancelled() and (error := upload.exception()) is not None:
            self.fail(error if isinstance(error, Exception) else UpstreamUnreachable())
