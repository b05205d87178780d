"""Talk to providers, over connections of our own.

Why no client library: the request head must leave byte for byte as it came, and what one costs is most of the path.
Measured side by side, aiohttp's connector, parser and streams took some 100 microseconds per request more than the
code here, and `httpx.Request` and `httpx.Response` as its interface another 60, of 290 in all. What is hard to get
right stays with libraries: llhttp parses, aiohappyeyeballs connects, `ssl` verifies.

No cookies, no redirects, no decompression, no proxies from the environment, no retries: there is no code for them.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from functools import lru_cache, partial
from time import monotonic
from typing import NamedTuple

import aiohappyeyeballs
from django.conf import settings

from credentials import destinations
from credentials.egress import ForbiddenAddress, Guard, Holes
from proxy.errors import UpstreamForbidden, UpstreamIdle, UpstreamInvalid, UpstreamUnreachable
from proxy.headers import Headers
from proxy.http1 import UpstreamConnection

CONNECT_SECONDS = 10.0
# Below what servers and load balancers commonly allow (60 s and more), so that it is seldom they who close first.
KEEPALIVE_SECONDS = 25.0
DNS_SECONDS = 10.0
SWEEP_SECONDS = 1.0


class Origin(NamedTuple):
    """What connections are kept apart by: never is one used for another name, even on the same address."""

    scheme: str
    host: str
    port: int


class Destination(NamedTuple):
    """A stored destination URL as requests need it: `netloc` for the Host header, `base_path` without a final slash."""

    origin: Origin
    netloc: bytes
    base_path: bytes


class Upstream:
    """The connections of one process to providers. Create it inside the running event loop."""

    def __init__(self) -> None:
        holes = Holes(settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS)
        self._guards = {"https": Guard(holes, plain=False), "http": Guard(holes, plain=True)}
        self._loop = asyncio.get_running_loop()
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._idle: dict[Origin, list[UpstreamConnection]] = {}
        self._active: set[UpstreamConnection] = set()
        self._idle_seconds = settings.STRAKE_IDLE_SECONDS
        self._addresses: dict[Origin, tuple[float, asyncio.Task[list[aiohappyeyeballs.AddrInfoType]]]] = {}
        self._sweeper = self._loop.create_task(self._sweep())

    async def send(
        self,
        origin: Origin,
        method: str,
        target: bytes,
        headers: Headers,
        key_header: tuple[bytes, bytearray],
        body: bytes | AsyncIterator[bytes],
        *,
        upgrade: bool = False,
    ) -> UpstreamResponse:
        """Send one request and return as soon as the head of the answer is there. The caller closes the response.

        `target` and `headers` go out as they are; then `key_header`, which holds the real key, last, so that no
        `Connection: authorization` could have stripped it. Of the key no copy is left when this returns or raises.
        A body that is not bytes is streamed, with the `content-length` among the headers, or chunked where there is
        none. `upgrade` says that the headers ask for another protocol; then the answer may be a 101, to be followed by
        `detach`. Raises the `BadGateway` family of `proxy.errors`, `UpstreamIdle`, or whatever the body raises.
        """
        chunked = not isinstance(body, bytes) and all(name != b"content-length" for name, _ in headers)
        head = _head(method, target, headers, key_header, chunked=chunked)
        # Joined in one step: that makes one copy of the key, which can be wiped.
        data = bytearray().join((head, key_header[1], b"\r\n\r\n", body if isinstance(body, bytes) else b""))
        try:
            connection = self._take(origin) or await self._connect(origin)
            upload: asyncio.Task[None] | None = None
            self._active.add(connection)
            try:
                connection.begin(data, bodyless=method == "HEAD", upgrade=upgrade)
                if not isinstance(body, bytes):
                    upload = self._loop.create_task(_upload(connection, body, chunked=chunked))
                    upload.add_done_callback(partial(_stop_on_failure, connection))
                await connection.head()
            except BaseException:
                if upload is not None:
                    upload.cancel()
                self.discard(connection)
                raise
        finally:
            data[len(head) : len(head) + len(key_header[1])] = bytes(len(key_header[1]))
        return UpstreamResponse(self, origin, connection, upload)

    def release(self, origin: Origin, connection: UpstreamConnection) -> None:
        """Keep a connection whose exchange is over for the next request to its origin."""
        self._active.discard(connection)
        connection.last_activity = monotonic()
        self._idle.setdefault(origin, []).append(connection)

    def discard(self, connection: UpstreamConnection) -> None:
        """Close a connection in the middle of an exchange, which stops the upstream."""
        self._active.discard(connection)
        connection.abort()

    def close(self) -> None:
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
            if connection.reusable and connection.last_activity > oldest and not connection.is_readable():
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
                if connection.is_waiting and connection.last_activity < now - self._idle_seconds:
                    connection.fail(UpstreamIdle())
            for origin, idle in list(self._idle.items()):
                for connection in [one for one in idle if one.last_activity < now - KEEPALIVE_SECONDS]:
                    idle.remove(connection)
                    connection.transport.close()
                if not idle:
                    del self._idle[origin]


class UpstreamResponse:
    """An answer whose body is read as it arrives. Close it in any case; what is left unread costs its owner money."""

    __slots__ = ("_connection", "_origin", "_upload", "_upstream", "headers", "status")

    def __init__(
        self, upstream: Upstream, origin: Origin, connection: UpstreamConnection, upload: asyncio.Task[None] | None
    ) -> None:
        self.status = connection.status
        self.headers = connection.headers
        self._upstream: Upstream | None = upstream
        self._origin = origin
        self._connection = connection
        self._upload = upload

    @property
    def finished(self) -> bool:
        """Whether the whole body has been read."""
        return self._connection.finished

    async def read(self) -> bytes:
        """The bytes that are there, waiting for some if there are none; empty at the end. Raises `UpstreamBroken`."""
        return await self._connection.read()

    def detach(self) -> tuple[asyncio.Transport, bytes]:
        """After a 101: the transport, paused, and what came behind the head. It still closes with the response."""
        return self._connection.detach()

    def close(self) -> None:
        """Give the connection back if the exchange is over on both sides; else close it, which stops the upstream."""
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        uploaded = self._upload is None or (self._upload.done() and not self._upload.cancelled())
        if uploaded and self._connection.finished and self._connection.reusable:
            upstream.release(self._origin, self._connection)
            return
        if self._upload is not None:
            self._upload.cancel()
        upstream.discard(self._connection)


@lru_cache(maxsize=4096)
def destination(url: str) -> Destination:
    """The parts of a stored destination URL. Cached: it is parsed for every request to it, and is no secret."""
    parsed = destinations.parse(url)
    origin = Origin(parsed.scheme, parsed.host, parsed.port)
    return Destination(origin, parsed.netloc.encode(), parsed.base_path.encode())


def _head(method: str, target: bytes, headers: Headers, key_header: tuple[bytes, bytearray], *, chunked: bool) -> bytes:
    """Everything up to the value of the last header, which is the real key's. Raises `UpstreamInvalid`."""
    lines = [b"%b: %b\r\n" % pair for pair in headers]
    if chunked:
        lines.append(b"transfer-encoding: chunked\r\n")
    name, key = key_header
    head = b"%b %b HTTP/1.1\r\n%b%b: " % (method.encode(), target, b"".join(lines), name)
    # Whatever got in, a line break did not: it would be a second header, or a second request.
    if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1 or b"\n" in key or b"\r" in key:
        raise UpstreamInvalid
    return head


async def _upload(connection: UpstreamConnection, body: AsyncIterator[bytes], *, chunked: bool) -> None:
    async for chunk in body:
        if chunk:
            await connection.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
    if chunked:
        await connection.write(b"0\r\n\r\n")


def _stop_on_failure(connection: UpstreamConnection, upload: asyncio.Task[None]) -> None:
    """An upload that fails ends the wait for an answer; one that merely goes on does not matter."""
    if not upload.cancelled() and (error := upload.exception()) is not None:
        connection.fail(error if isinstance(error, Exception) else UpstreamUnreachable())


async def _look_up(origin: Origin, guard: Guard) -> list[aiohappyeyeballs.AddrInfoType]:
    found = await guard.resolve(origin.host, origin.port)
    return [
        (one["family"], socket.SOCK_STREAM, one["proto"], "", (one["host"], one["port"], *one.get("scope", ())))
        for one in found
    ]
