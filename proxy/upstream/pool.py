"""The connections of this process to providers.

There is no HTTP client library here: the request head must be sent byte for byte, and a library costs more than the
rest of the path. aiohttp's connector, parser and streams took about 100 microseconds more per request than this
code, and `httpx.Request` and `httpx.Response` as the interface another 60, of 290 in all. Libraries do what is hard to
get right: llhttp parses, aiohappyeyeballs connects, `ssl` verifies.

There are no cookies, redirects, decompression, proxies from the environment, or retries.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Hashable
from time import monotonic

import aiohappyeyeballs
from django.conf import settings

from credentials import cloud_tokens, egress_proxy, egress_tls, providers
from credentials.egress import EgressPolicy, ForbiddenAddress, Reason
from credentials.egress_allowlist import EgressAllowlist
from credentials.egress_proxy import EgressProxy
from credentials.resolver import Addresses, Resolver, TooManyLookUps
from credentials.vault.sealing import wipe
from proxy import connect_failures
from proxy.errors import (
    Loop,
    ProxyError,
    TooManyNames,
    UpstreamForbidden,
    UpstreamIdle,
    UpstreamReserved,
)
from proxy.http.names import KEEP_ALIVE, Headers
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.connects import Connects
from proxy.upstream.egress_proxy import open_tunnel
from proxy.upstream.idle import IdleConnections
from proxy.upstream.origin import Origin
from proxy.upstream.remainder import SSLObject
from proxy.upstream.request_head import encode_head

CONNECT_SECONDS = 10.0
MAX_CONNECTS = 1024
MAX_CONNECTS_PER_OWNER = 64
# Servers and load balancers commonly keep idle connections for 60 s or more, so this side usually closes first.
KEEPALIVE_SECONDS = 25.0
# How much earlier than the provider announces (Keep-Alive: timeout=N) this side closes.
KEEPALIVE_MARGIN_SECONDS = 1.0
SWEEP_SECONDS = 1.0
# Servers may ignore the body of these (RFC 9110 §9.3), and then take it for the next request.
_METHODS_WITHOUT_BODY = frozenset({"DELETE", "GET", "HEAD", "OPTIONS"})
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[,;\s])timeout\s*=\s*\"?([0-9]{1,6})", re.IGNORECASE)


class ConnectionPool:
    """Opens connections to providers and keeps idle ones. Create it inside the running event loop."""

    def __init__(self) -> None:
        self._allowlist = EgressAllowlist(settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS)
        self._loop = asyncio.get_running_loop()
        self._tls = egress_tls.client_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._tls.sslobject_class = SSLObject
        self._idle = IdleConnections()
        self._active: set[UpstreamConnection] = set()
        self._idle_seconds = settings.STRAKE_IDLE_SECONDS
        self._fixed_hosts = providers.fixed_hosts() | cloud_tokens.hosts()
        self._proxy = settings.STRAKE_EGRESS_PROXY
        hosts_of_all = self._fixed_hosts if self._proxy is None else {*self._fixed_hosts, self._proxy.host}
        self._resolver = Resolver(reserved=hosts_of_all)
        # Connecting to the fixed destinations of providers is apart from what people enter.
        self._connects_to_fixed, self._connects = (
            Connects(total=MAX_CONNECTS, per_owner=MAX_CONNECTS_PER_OWNER, seconds=CONNECT_SECONDS) for _ in range(2)
        )
        self._sweeper = self._loop.create_task(self._sweep())

    async def send(
        self,
        origin: Origin,
        method: str,
        target: bytes | bytearray,
        headers: Headers,
        key_header: tuple[bytes, bytearray],
        body: bytes | AsyncIterator[bytes | bytearray],
        *,
        credential_id: Hashable,
        owner_id: Hashable,
        owner_email: str,
        key_lines: int = 1,
        upgrade: bool = False,
    ) -> UpstreamResponse:
        """Send a request, and return when the head of its response has arrived. The caller closes the response.

        `target` and `headers` are sent unchanged. `key_header` holds the provider key, and is sent last so that a
        `Connection: authorization` among the headers cannot remove it. Its value may hold more headers, `key_lines` in
        all, and a `target` that is a bytearray holds the key too. No other copy of the key remains when this returns or
        raises. A body that is not bytes is streamed: with the `content-length` from the headers, or else chunked.
        With `upgrade`, the headers ask for another protocol, and the response may be a 101 to `detach`.

        Connections are kept for requests with the same `credential_id`, which therefore changes with the key. The
        owner's share of look-ups and connections is used, and the operator's allowlist for `owner_email`.

        Raises `UpstreamUnreachable` or a subclass, `UpstreamForbidden`, `UpstreamReserved`, `Loop`, `TooManyNames`,
        `TooManyConnects`, `UpstreamInvalid`, `UpstreamIdle`, or whatever the body iterator raises.
        """
        chunked = not isinstance(body, bytes) and all(name.lower() != b"content-length" for name, _ in headers)
        head = encode_head(method, target, headers, key_header, chunked=chunked, key_lines=key_lines)
        # Joined in one step, which makes a single copy of the key. It is overwritten below.
        data = bytearray().join((head, key_header[1], b"\r\n\r\n", body if isinstance(body, bytes) else b""))
        try:
            key: Hashable | None = (origin, credential_id)
            connection = self._idle.take(key)
            waited = 0.0
            if connection is None:
                started = monotonic()
                connection = await self._connected(origin, owner_id, owner_email)
                waited = monotonic() - started
            self._active.add(connection)
            try:
                connection.begin(data, bodyless=method == "HEAD", upgrade=upgrade)
                if not isinstance(body, bytes):
                    connection.upload(body, chunked=chunked)
                await connection.head()
            except BaseException:
                self.discard(connection)
                raise
        finally:
            start, length = len(head), len(key_header[1])
            if isinstance(head, bytearray):
                data[:start] = bytearray(start)
                wipe(head)
            data[start : start + length] = bytearray(length)
        if body and method in _METHODS_WITHOUT_BODY:
            key = None
        return UpstreamResponse(self, connection, key, owner_id, waited)

    def release(self, connection: UpstreamConnection, key: Hashable, owner_id: Hashable) -> None:
        """Keep a connection for the next request with this key. Its exchange must be over."""
        self._active.discard(connection)
        seconds = _keepalive_seconds(connection.headers) if connection.kinds & KEEP_ALIVE else KEEPALIVE_SECONDS
        if seconds > 0:
            self._idle.add(key, owner_id, connection, seconds=seconds)
        else:
            connection.transport.close()

    def discard(self, connection: UpstreamConnection) -> None:
        """Abort a connection, in the middle of an exchange or not."""
        self._active.discard(connection)
        connection.abort()

    def counts(self) -> dict[str, int]:
        """Return the number of connections by state. Safe to call from any thread."""
        return {
            "active": len(self._active),
            "idle": len(self._idle),
            "connecting": self._connects.taken + self._connects_to_fixed.taken,
            "waiting": self._connects.waiting + self._connects_to_fixed.waiting,
        }

    def close(self) -> None:
        self._sweeper.cancel()
        self._idle.close()
        for connection in self._active:
            connection.abort()
        self._active.clear()

    async def _connected(self, origin: Origin, owner_id: Hashable, owner_email: str) -> UpstreamConnection:
        """Open a connection in a task, which timeouts need. Raises as `send` does."""
        task = self._loop.create_task(self._connect(origin, owner_id, owner_email))
        try:
            return await task
        except asyncio.CancelledError:
            if task.done() and not task.cancelled() and task.exception() is None:
                task.result().abort()  # it was opened in the same moment
            raise

    async def _connect(self, origin: Origin, owner_id: Hashable, owner_email: str) -> UpstreamConnection:
        """Open a connection. Raises as `send` does."""
        connects = self._connects_to_fixed if origin.host in self._fixed_hosts else self._connects
        async with connects.place(owner_id):
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await self._open(origin, owner_id, owner_email)
            except ForbiddenAddress as error:
                raise _FORBIDDEN.get(error.reason, UpstreamForbidden) from None
            except TooManyLookUps:
                raise TooManyNames(retry_after=10) from None
            except (OSError, TimeoutError, UnicodeError) as error:  # ssl.SSLError is an OSError
                raise connect_failures.unreachable(error) from None

    async def _open(self, origin: Origin, owner_id: Hashable, owner_email: str) -> UpstreamConnection:
        """Raises `ForbiddenAddress`, `TooManyLookUps`, an `EgressProxyError` or another `OSError`."""
        connected = await self._open_socket(origin, owner_id, owner_email)
        tls = self._tls if origin.scheme == "https" else None
        _, connection = await self._loop.create_connection(
            lambda: UpstreamConnection(self._loop),
            sock=connected,
            ssl=tls,
            server_hostname=origin.host if tls else None,
        )
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    async def _open_socket(self, origin: Origin, owner_id: Hashable, owner_email: str) -> socket.socket:
        """Connect directly, or through the company's proxy. Raises as `_open` does."""
        proxy = self._proxy
        policy = EgressPolicy(self._allowlist, plain=origin.scheme == "http", owner_email=owner_email)
        if proxy is not None and proxy.gets_name(policy, origin.host, origin.port):
            return await self._open_tunnel(proxy, [f"{origin.host}:{origin.port}"], owner_id)
        # Late enough to matter only if there is no answer at all, and early enough to say so.
        found = await self._resolver.aresolve(origin.host, owner_id, seconds=CONNECT_SECONDS * 0.9)
        addresses = policy.check(origin.host, origin.port, found)
        if proxy is not None:
            direct = proxy.reached_directly(origin.host, addresses)
            if not direct:
                return await self._open_tunnel(proxy, egress_proxy.authorities(addresses), owner_id)
            addresses = direct
        return await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=0.25, interleave=1, socket_factory=policy.create_socket
        )

    async def _open_tunnel(self, proxy: EgressProxy, authorities: list[str], owner_id: Hashable) -> socket.socket:
        async def resolve(host: str) -> Addresses:
            return await self._resolver.aresolve(host, owner_id, seconds=CONNECT_SECONDS * 0.9)

        # The rest is for TLS, so that the proxy's part of a failure can be told.
        return await open_tunnel(proxy, authorities, resolve, seconds=CONNECT_SECONDS * 0.8)

    async def _sweep(self) -> None:
        """Close connections that were idle for too long, and fail exchanges that wait for too long."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = monotonic()
            for connection in list(self._active):
                if connection.is_waiting and connection.last_activity < now - self._idle_seconds:
                    connection.fail(UpstreamIdle())
            self._idle.sweep()


class UpstreamResponse:
    """A response whose body is read as it arrives, by `take` and `wait` as `UpstreamConnection` has them, or by `read`.

    Always close it: providers bill for what they generate.
    """

    __slots__ = (
        "_connection",
        "_key",
        "_owner_id",
        "_pool",
        "headers",
        "kinds",
        "reason",
        "status",
        "take",
        "wait",
        "waited",
    )

    def __init__(
        self,
        pool: ConnectionPool,
        connection: UpstreamConnection,
        key: Hashable | None,
        owner_id: Hashable,
        connecting: float,
    ) -> None:
        """`key` is that of the idle connection which this one becomes, or None if it must be closed.

        `connecting` is how long it took to connect, in seconds. `waited` is that and the time until the head arrived.
        """
        self.waited = connecting + connection.last_activity - connection.began_at
        self.status: int = connection.status
        self.reason: bytes = connection.reason
        self.headers = connection.headers
        self.kinds = connection.kinds
        self._pool: ConnectionPool | None = pool
        self._connection = connection
        self.take = connection.take
        self.wait = connection.wait
        self._key = key
        self._owner_id = owner_id

    @property
    def finished(self) -> bool:
        """Whether the whole body has been read."""
        return self._connection.finished

    async def read(self) -> bytes:
        """Return the part of the body that has arrived, or wait for some. Returns b"" at the end. Raises as `take`."""
        while not (data := self._connection.take()) and not self._connection.finished:
            await self._connection.wait()
        return data

    def detach(self) -> tuple[asyncio.Transport, bytes]:
        """After a 101, return the transport, with reading paused, and the bytes received after the head.

        `close` still closes the transport. Raises `UpstreamInvalid` if the response names no protocol.
        """
        return self._connection.detach()

    def close(self) -> None:
        """Return the connection to the pool if the exchange is over, or abort it, which stops the provider."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        if self._key is not None and self._connection.is_reusable:
            pool.release(self._connection, self._key, self._owner_id)
        else:
            pool.discard(self._connection)


_FORBIDDEN: dict[Reason, type[ProxyError]] = {Reason.STRAKE: Loop, Reason.OTHERS: UpstreamReserved}


def _keepalive_seconds(headers: Headers) -> float:
    """Return how long to keep a connection after a response with these headers."""
    for name, value in headers:
        if len(name) == 10 and name.lower() == b"keep-alive" and (found := _KEEP_ALIVE_TIMEOUT.search(value)):
            return min(KEEPALIVE_SECONDS, int(found[1]) - KEEPALIVE_MARGIN_SECONDS)
    return KEEPALIVE_SECONDS
