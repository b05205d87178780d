"""A provider that records requests exactly as received, and responds byte for byte as a test scripts it.

It runs in a thread with a separate event loop. Paths without a script respond with a JSON report of the request.
Parsing is strict: requests that are not well-formed HTTP/1.1 are reported in `malformed`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

MAX_STORED_BODY = 4 * 1024 * 1024  # of longer bodies, only the size and the digest are complete

_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*\Z")
_REQUEST_LINE = re.compile(rb"([A-Z]+) (/[\x21-\x7e]*|\*) HTTP/1\.1\Z")


@dataclass
class Exchange:
    """One request as received, and methods to respond to it."""

    connection: _Connection = field(repr=False)
    raw_head: bytes
    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    body_size: int = 0
    body_sha256: str = ""
    body_complete: bool = False
    started_at: float = field(default_factory=time.monotonic)
    failure: str = ""

    @property
    def path(self) -> str:
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def query(self) -> bytes:
        return self.target.partition(b"?")[2]

    @property
    def closed_at(self) -> float | None:
        """When the peer closed the connection, by `time.monotonic`, or None."""
        return self.connection.closed_at

    def all(self, name: str) -> list[bytes]:
        """Return every value of a header, in order."""
        return [value for known, value in self.headers if known.lower() == name.lower().encode()]

    def header(self, name: str) -> bytes | None:
        """Return the value of a header, or None. Raises `AssertionError` if there are several."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    def report(self) -> dict[str, Any]:
        """Return the request in a form that JSON can represent."""
        return {
            "method": self.method,
            "target": self.target.decode("latin-1"),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers],
            "body_size": self.body_size,
            "body_sha256": self.body_sha256,
        }

    async def write(self, data: bytes) -> None:
        """Send bytes, and wait while the peer's buffers are full."""
        self.connection.writer.write(data)
        await self.connection.writer.drain()

    async def respond(
        self, status: int = 200, headers: Iterable[tuple[str, str]] = (), body: bytes = b"", *, reason: str = "Reason"
    ) -> None:
        """Send a complete response with a Content-Length."""
        await self.write(head(status, [*headers, ("Content-Length", str(len(body)))], reason=reason))
        if self.method != "HEAD":
            await self.write(body)

    async def chunk(self, data: bytes) -> None:
        """Send one chunk of a chunked response. An empty chunk ends it."""
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def read_body(self, *, rate: float | None = None) -> None:
        """Read the request's body, at most `rate` bytes a second. For scripts marked with `early`."""
        await self.connection.read_body(self, rate)

    def abort(self) -> None:
        """Reset the connection."""
        self.connection.reset()


Script = Callable[[Exchange], Awaitable[None]]


def head(status: int, headers: Iterable[tuple[str, str]], *, reason: str = "Reason") -> bytes:
    """Return the head of a response."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status} {reason}\r\n{lines}\r\n".encode("latin-1")


# --- Scripts -------------------------------------------------------------------------------------------------------


def early(script: Script) -> Script:
    """Mark a script that starts when the head has arrived. It may read the body itself."""
    script.early = True  # type: ignore[attr-defined]
    return script


async def echo(exchange: Exchange) -> None:
    """Respond with a report of the request. The default."""
    body = json.dumps(exchange.report()).encode()
    await exchange.respond(200, [("Content-Type", "application/json")], body)


def fixed(status: int = 200, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> Script:
    """Always send the same response, with a Content-Length."""
    pairs = list(headers)

    async def script(exchange: Exchange) -> None:
        await exchange.respond(status, pairs, body)

    return script


def raw(*pieces: bytes, pause: float = 0.0, then: str = "close") -> Script:
    """Send exactly these bytes, `pause` seconds apart. `then` is "close", "reset", "keep" (reuse) or "hang"."""

    async def script(exchange: Exchange) -> None:
        for index, piece in enumerate(pieces):
            if index and pause:
                await asyncio.sleep(pause)
            await exchange.write(piece)
        if then == "close":
            exchange.connection.writer.close()
        elif then == "reset":
            exchange.abort()
        elif then == "hang":
            await exchange.connection.lost.wait()

    return script


def sse(chunks: Iterable[bytes], *, every: float = 0.0, wait: float = 0.0) -> Script:
    """Send a chunked event stream: the head, then after `wait` seconds the chunks, `every` seconds apart."""
    pieces = list(chunks)

    async def script(exchange: Exchange) -> None:
        await exchange.write(
            head(200, [("Content-Type", "text/event-stream; charset=utf-8"), ("Transfer-Encoding", "chunked")])
        )
        await asyncio.sleep(wait)
        for index, chunk in enumerate(pieces):
            if index and every:
                await asyncio.sleep(every)
            await exchange.chunk(chunk)
        await exchange.chunk(b"")

    return script


def endless(chunk: bytes, *, every: float = 0.0) -> Script:
    """Send chunks until the peer closes the connection."""

    async def script(exchange: Exchange) -> None:
        await exchange.write(head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]))
        while not exchange.connection.lost.is_set():
            await exchange.chunk(chunk)
            await asyncio.sleep(every)

    return script


def download(size: int, *, piece: bytes = bytes(range(256)) * 256) -> Script:
    """Send `size` bytes of a repeating pattern, with a Content-Length."""

    async def script(exchange: Exchange) -> None:
        await exchange.write(head(200, [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))]))
        left = size
        while left:
            part = piece[:left] if left < len(piece) else piece
            await exchange.write(part)
            left -= len(part)

    return script


async def silence(exchange: Exchange) -> None:
    """Read the request, and send nothing until the peer closes the connection."""
    await exchange.connection.lost.wait()


@early
async def stop_reading(exchange: Exchange) -> None:
    """Read the head, then neither read nor send until the peer closes the connection."""
    await exchange.connection.closed_while_paused()


# --- The server ----------------------------------------------------------------------------------------------------


class _Protocol(asyncio.StreamReaderProtocol):
    """Records when the peer closes the connection."""

    def __init__(self, upstream: Upstream) -> None:
        self.connection = _Connection(upstream)
        reader = asyncio.StreamReader(limit=256 * 1024)
        super().__init__(reader, self.connection.serve)

    def eof_received(self) -> bool | None:
        self.connection.peer_closed()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.peer_closed()
        super().connection_lost(exc)


class _Malformed(Exception):
    pass


class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.closed_at: float | None = None
        self.lost = asyncio.Event()

    def peer_closed(self) -> None:
        if self.closed_at is None:
            self.closed_at = time.monotonic()
        self.lost.set()

    async def closed_while_paused(self) -> None:
        """Pause reading until the peer has closed. The event loop does not notice that, so this polls the socket."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]
        poll = select.poll()
        poll.register(self.writer.get_extra_info("socket").fileno(), select.POLLRDHUP)
        while not self.lost.is_set() and not poll.poll(0):  # noqa: ASYNC110  (there is no event to wait for)
            await asyncio.sleep(0.02)
        self.peer_closed()
        self.writer.transport.abort()

    def reset(self) -> None:
        """Close the connection with an RST instead of a FIN."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        writer.transport.set_write_buffer_limits(high=64 * 1024)
        self.upstream.connections.append(self)
        try:
            while not writer.is_closing() and await self._serve_one():
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except _Malformed as error:
            self.upstream.malformed.append(str(error))
        finally:
            writer.close()

    async def _serve_one(self) -> bool:
        try:
            raw_head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise _Malformed(f"half a head: {error.partial[:200]!r}") from None
            return False
        except asyncio.LimitOverrunError:
            raise _Malformed("a head without an end") from None
        exchange = self._parse(raw_head)
        self.upstream.exchanges.append(exchange)
        script = self.upstream.scripts.get(exchange.path, self.upstream.default)
        if not getattr(script, "early", False):
            await self.read_body(exchange, None)
        try:
            await script(exchange)
        except ConnectionError as error:
            exchange.failure = type(error).__name__
            raise
        return exchange.body_complete

    def _parse(self, raw_head: bytes) -> Exchange:
        first, *lines = raw_head[:-4].split(b"\r\n")
        request = _REQUEST_LINE.match(first)
        if request is None:
            raise _Malformed(f"request line {first[:200]!r}")
        headers = []
        for line in lines:
            match = _HEADER.match(line)
            if match is None:
                raise _Malformed(f"header line {line[:200]!r}")
            headers.append((match[1], match[2]))
        exchange = Exchange(self, raw_head, request[1].decode(), request[2], headers)
        lengths, codings = exchange.all("content-length"), exchange.all("transfer-encoding")
        if len(lengths) > 1 or len(codings) > 1 or (lengths and codings) or len(exchange.all("host")) != 1:
            raise _Malformed(f"framing of {raw_head[:400]!r}")
        if codings and codings != [b"chunked"]:
            raise _Malformed(f"transfer coding {codings!r}")
        if lengths and not lengths[0].isdigit():
            raise _Malformed(f"content length {lengths!r}")
        return exchange

    async def read_body(self, exchange: Exchange, rate: float | None) -> None:
        digest = hashlib.sha256()
        started = time.monotonic()

        async def take(size: int) -> None:
            left = size
            while left:
                data = await self.reader.read(min(left, 256 * 1024))
                if not data:
                    raise asyncio.IncompleteReadError(b"", left)
                digest.update(data)
                left -= len(data)
                exchange.body_size += len(data)
                if exchange.body_size <= MAX_STORED_BODY:
                    exchange.body += data
                if rate:
                    await asyncio.sleep(max(0.0, started + exchange.body_size / rate - time.monotonic()))

        if exchange.all("transfer-encoding"):
            while True:
                line = await self.reader.readuntil(b"\r\n")
                if not re.fullmatch(rb"[0-9a-fA-F]+\r\n", line):
                    raise _Malformed(f"chunk size {line[:100]!r}")
                size = int(line, 16)
                await take(size)
                if await self.reader.readexactly(2) != b"\r\n":
                    raise _Malformed("a chunk longer than its size, or a trailer")
                if not size:
                    break
        else:
            await take(int(exchange.header("content-length") or 0))
        exchange.body_sha256 = digest.hexdigest()
        exchange.body_complete = True


class Upstream:
    """The server. Use it as a context manager. Its attributes may be read from any thread.

    With `socket_path` it listens on that Unix socket.
    """

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", socket_path: Path | None = None
    ) -> None:
        self.host = host
        self.port = 0
        self.exchanges: list[Exchange] = []
        self.connections: list[_Connection] = []
        self.malformed: list[str] = []
        self.scripts: dict[str, Script] = {}
        self.default: Script = echo
        self._tls = tls
        self._socket_path = socket_path
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="upstream", daemon=True)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def last(self) -> Exchange:
        return self.exchanges[-1]

    @property
    def open_connections(self) -> int:
        return sum(connection.closed_at is None for connection in self.connections)

    def on(self, path: str, script: Script) -> None:
        """Respond to requests for `path` (without its query) with `script` from now on."""
        self.scripts[path] = script

    def clear(self) -> None:
        """Remove the scripts and the recorded requests."""
        self.scripts.clear()
        self.exchanges.clear()
        self.malformed.clear()
        self.connections[:] = [connection for connection in self.connections if connection.closed_at is None]
        self.default = echo

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(60):
            raise TimeoutError("The upstream does not start.")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(60)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        if self._socket_path is not None:
            server = await self._loop.create_unix_server(lambda: _Protocol(self), self._socket_path, backlog=2048)
        else:
            server = await self._loop.create_server(
                lambda: _Protocol(self), self.host, self.port, ssl=self._tls, backlog=2048
            )
            self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()
        for connection in self.connections:
            if hasattr(connection, "writer") and not connection.lost.is_set():  # Python 3.11.2 cannot abort it twice
                connection.writer.transport.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def eventually(condition: Callable[[], Any], seconds: float = 60.0, *, what: str = "") -> Any:
    """Poll `condition` until it returns something truthy, and return that. Raises `AssertionError` on timeout."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"Not within {seconds} s: {what or condition}.")
        time.sleep(0.01)


async def until(condition: Callable[[], Any], seconds: float = 60.0, *, what: str = "") -> Any:
    """Like `eventually`, and lets the event loop run."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"Not within {seconds} s: {what or condition}.")
        await asyncio.sleep(0.01)
    return value
