"""Talk to providers: an `httpx` transport over connections of our own, called directly, without an `httpx` client.

Why not a client library below it: the request head must leave byte for byte as it came, and with aiohttp's connector
and parser below, this transport took four times the processor time per request (measured side by side). What is hard
to get right stays with libraries: llhttp parses, aiohappyeyeballs connects, `ssl` verifies.

No cookies, no redirects, no decompression, no proxies from the environment, no retries: there is no code for them.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import AsyncIterator
from functools import lru_cache
from time import monotonic
from typing import NamedTuple

import aiohappyeyeballs
import httpx
from django.conf import settings

from credentials.egress import ForbiddenAddress, Guard, Holes
from proxy.errors import UpstreamForbidden, UpstreamIdle, UpstreamInvalid, UpstreamUnreachable
from proxy.http1 import UpstreamConnection

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 600.0
# Below what servers and load balancers commonly allow (60 s and more), so that it is seldom they who close first.
KEEPALIVE_SECONDS = 25.0
DNS_SECONDS = 10.0
SWEEP_SECONDS = 1.0


class Origin(NamedTuple):
    """What connections are kept apart by: never is one used for another name, even on the same address."""

    scheme: str
    host: str
    port: int


class UpstreamTransport(httpx.AsyncBaseTransport):
    """One per process. Create it inside the running event loop."""

    def __init__(self) -> None:
        holes = Holes(settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS)
        self._guards = {"https": Guard(holes, plain=False), "http": Guard(holes, plain=True)}
        self._loop = asyncio.get_running_loop()
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._idle: dict[Origin, list[UpstreamConnection]] = {}
        self._active: set[UpstreamConnection] = set()
        self._addresses: dict[Origin, tuple[float, asyncio.Task[list[aiohappyeyeballs.AddrInfoType]]]] = {}
        self._sweeper = self._loop.create_task(self._sweep())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request and return as soon as the head of the answer is there.

        The request target is `request.extensions["target"]`, raw. A body that is not `httpx.ByteStream` is streamed
        with its `content-length`, or chunked where there is none. The caller closes `response.stream`.
        Raises the `BadGateway` family of `proxy.errors`, `UpstreamIdle`, or whatever the request stream raises.
        """
        stream = request.stream
        head = _head(request)
        origin = origin_of(request.url)
        connection = self._take(origin) or await self._connect(origin)
        upload: asyncio.Task[None] | None = None
        self._active.add(connection)
        try:
            if isinstance(stream, httpx.ByteStream):
                connection.begin(head + b"".join(stream), bodyless=request.method == "HEAD")
                await connection.head()
            else:
                connection.begin(head, bodyless=request.method == "HEAD")
                upload = self._loop.create_task(_upload(request, connection))
                await _head_or_failed_upload(connection, upload)
        except BaseException:
            if upload is not None:
                upload.cancel()
            self._discard(connection)
            raise
        body = ResponseBody(self, origin, connection, upload)
        return httpx.Response(connection.status, headers=connection.headers, stream=body)

    def release(self, origin: Origin, connection: UpstreamConnection) -> None:
        """Keep a connection whose exchange is over for the next request to its origin."""
        self._active.discard(connection)
        connection.last_activity = monotonic()
        self._idle.setdefault(origin, []).append(connection)

    def _discard(self, connection: UpstreamConnection) -> None:
        self._active.discard(connection)
        connection.abort()

    async def aclose(self) -> None:
        self._sweeper.cancel()
        for connection in [*self._active, *(one for idle in self._idle.values() for one in idle)]:
            connection.abort()
        self._active.clear()
        self._idle.clear()

    def _take(self, origin: Origin) -> UpstreamConnection | None:
        """A kept connection that is surely alive.

        A server that closed an idle connection has made its socket readable, perhaps without the event loop having
        looked yet. Found out before a byte is sent, taking another connection is no retry.
        """
        idle = self._idle.get(origin)
        oldest = monotonic() - KEEPALIVE_SECONDS
        while idle:
            connection = idle.pop()
            if connection.reusable and connection.last_activity > oldest and not _is_readable(connection.transport):
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin) -> UpstreamConnection:
        """A new connection. Raises `UpstreamForbidden` or `UpstreamUnreachable`."""
        guard = self._guards[origin.scheme]
        tls = self._tls if origin.scheme == "https" else None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                addresses = await self._resolve(origin, guard)
                connected = await aiohappyeyeballs.start_connection(
                    addresses, happy_eyeballs_delay=0.25, interleave=1, socket_factory=guard.socket
                )
                _, connection = await self._loop.create_connection(
                    lambda: UpstreamConnection(self._loop),
                    sock=connected,
                    ssl=tls,
                    server_hostname=origin.host if tls else None,
                )
        except ForbiddenAddress:
            raise UpstreamForbidden from None
        except (OSError, TimeoutError, UnicodeError):  # ssl.SSLError is an OSError
            raise UpstreamUnreachable from None
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    async def _resolve(self, origin: Origin, guard: Guard) -> list[aiohappyeyeballs.AddrInfoType]:
        """The checked addresses of an origin, one look-up for all who ask within a few seconds."""
        known = self._addresses.get(origin)
        if known is None or known[0] < monotonic():
            if len(self._addresses) > 4096:
                self._addresses.clear()
            known = (monotonic() + DNS_SECONDS, self._loop.create_task(_look_up(origin, guard)))
            self._addresses[origin] = known
        try:
            return await asyncio.shield(known[1])
        except OSError:
            self._addresses.pop(origin, None)
            raise

    async def _sweep(self) -> None:
        """Close what has been kept too long, and end what has been silent too long."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = monotonic()
            for connection in list(self._active):
                if connection.is_waiting and connection.last_activity < now - IDLE_SECONDS:
                    connection.fail(UpstreamIdle())
            for origin, idle in list(self._idle.items()):
                for connection in [one for one in idle if one.last_activity < now - KEEPALIVE_SECONDS]:
                    idle.remove(connection)
                    connection.transport.close()
                if not idle:
                    del self._idle[origin]


class ResponseBody(httpx.AsyncByteStream):
    """The raw bytes of an answer, as they arrive. Close it in any case; what is left unread costs its owner money."""

    __slots__ = ("_connection", "_origin", "_transport", "_upload")

    def __init__(
        self,
        transport: UpstreamTransport,
        origin: Origin,
        connection: UpstreamConnection,
        upload: asyncio.Task[None] | None,
    ) -> None:
        self._transport: UpstreamTransport | None = transport
        self._origin = origin
        self._connection = connection
        self._upload = upload

    @property
    def finished(self) -> bool:
        """Whether everything has been read."""
        return self._connection.finished

    async def read(self) -> bytes:
        """The bytes that are there, waiting for some if there are none; empty at the end. Raises `UpstreamBroken`."""
        return await self._connection.read()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.read():
            yield chunk

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back if the exchange is over on both sides; else close it, which stops the upstream."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        uploaded = self._upload is None or (self._upload.done() and not self._upload.cancelled())
        if uploaded and self._connection.finished and self._connection.reusable:
            transport.release(self._origin, self._connection)
            return
        if self._upload is not None:
            self._upload.cancel()
        transport._discard(self._connection)  # noqa: SLF001  (the other half of release)


@lru_cache(maxsize=4096)
def destination(url: str) -> tuple[httpx.URL, bytes, bytes]:
    """A stored destination URL as the transport wants it: its URL, the Host value, and the base path."""
    parsed = httpx.URL(url)
    return parsed, parsed.netloc, parsed.raw_path.rstrip(b"/")


@lru_cache(maxsize=4096)
def origin_of(url: httpx.URL) -> Origin:
    return Origin(url.scheme, url.host, url.port or {"http": 80, "https": 443}[url.scheme])


def build_request(
    method: str,
    url: httpx.URL,
    target: bytes,
    headers: list[tuple[bytes, bytes]],
    body: bytes | AsyncIterator[bytes],
) -> httpx.Request:
    """A request for the transport above."""
    stream = httpx.ByteStream(body) if isinstance(body, bytes) else _RequestBody(body)
    return httpx.Request(method, url, headers=headers, stream=stream, extensions={"target": target})


def body_of(response: httpx.Response) -> ResponseBody:
    """The body of a response of the transport above."""
    if not isinstance(response.stream, ResponseBody):
        raise TypeError("Not a response of UpstreamTransport.")
    return response.stream


class _RequestBody(httpx.AsyncByteStream):
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


def _head(request: httpx.Request) -> bytes:
    lines = [b"%b: %b\r\n" % pair for pair in request.headers.raw]
    if not isinstance(request.stream, httpx.ByteStream) and "content-length" not in request.headers:
        lines.append(b"transfer-encoding: chunked\r\n")
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method.encode(), request.extensions["target"], b"".join(lines))
    # Whatever got in, a line break did not: it would be a second header, or a second request.
    if head.count(b"\n") != len(lines) + 2 or head.count(b"\r") != len(lines) + 2:
        raise UpstreamInvalid
    return head


async def _upload(request: httpx.Request, connection: UpstreamConnection) -> None:
    chunked = "content-length" not in request.headers
    if not isinstance(request.stream, httpx.AsyncByteStream):
        raise TypeError("A request body is bytes or an asynchronous stream.")
    async for chunk in request.stream:
        if chunk:
            await connection.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
    if chunked:
        await connection.write(b"0\r\n\r\n")


async def _head_or_failed_upload(connection: UpstreamConnection, upload: asyncio.Task[None]) -> None:
    """Wait for the answer's head. An upload that fails ends the wait; one that is not finished yet does not matter."""

    def stop(done: asyncio.Task[None]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            connection.fail(error if isinstance(error, Exception) else UpstreamUnreachable())

    upload.add_done_callback(stop)
    await connection.head()


async def _look_up(origin: Origin, guard: Guard) -> list[aiohappyeyeballs.AddrInfoType]:
    found = await guard.resolve(origin.host, origin.port)
    return [
        (one["family"], socket.SOCK_STREAM, one["proto"], "", (one["host"], one["port"], *one.get("scope", ())))
        for one in found
    ]


def _is_readable(transport: asyncio.Transport) -> bool:
    connection = transport.get_extra_info("socket")
    if connection is None or transport.is_closing():
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
