"""Passes everything that is not proxy traffic to the web processes, over their Unix socket.

The web processes face no client. A request reaches them complete and checked, with the client's address in
`X-Strake-Client`, and no other header of that kind comes from the client. Their threads never wait for a slow client:
request bodies are small and read first, and responses are streamed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from django.conf import settings

from accounts.addresses import IPAddress
from accounts.sign_in.throttle import networks
from proxy.errors import BodyTooLarge, UpstreamInvalid, UpstreamUnreachable
from proxy.http import no_endpoint
from proxy.http.headers import nominated_names
from proxy.http.names import HOP_BY_HOP, Headers
from proxy.http.request import ClientDisconnected, ProxyRequest
from proxy.http.response import PROTECTION_LINES, Response, send_response
from proxy.server.exchange import Exchange
from proxy.server.run import in_task
from proxy.upstream.connection import UpstreamBroken, UpstreamConnection
from proxy.upstream.request_head import encode_head

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
BODY_SECONDS = 30.0
HEAD_SECONDS = 60.0
# How long a page waits for the web processes to start, or to start again.
WEB_SECONDS = 5.0
POLL_SECONDS = 0.05
MAX_PAGES = 64
MAX_PAGES_PER_NETWORK = 16
# gunicorn closes an idle connection after 2 s by default, and a stopping worker answers on it for as long. Below that,
# a request never meets a connection that is being closed.
KEEPALIVE_SECONDS = 1.5
MAX_IDLE = 8
_SAFE_METHODS = frozenset({"GET", "HEAD"})  # they may be sent again (RFC 9110 §9.2.1)
# A web half that is killed resets one connection per process. After that, a connection waits for the next web half.
SAFE_ATTEMPTS = 3

API_PREFIX = b"/api/"
# What the scripts of pages say about themselves. No other X-Strake-* header comes from a client.
_FROM_SCRIPTS = frozenset({b"x-strake-dialog", b"x-strake-part"})
_NOT_FOR_WEB = HOP_BY_HOP | {b"expect", b"forwarded", b"x-real-ip"}
_NOT_FOR_CLIENT = HOP_BY_HOP | {b"date", b"server"}
_KEEP_ALIVE = (b"connection", bytearray(b"keep-alive"))  # sent last, see `encode_head`


class _Refusal(NamedTuple):
    """A response without the web processes. `retry_after` is in seconds, 0 if a retry does not help."""

    status: HTTPStatus
    heading: str
    message: str
    retry_after: int = 0


_REFUSALS = {
    "request_timeout": _Refusal(
        HTTPStatus.REQUEST_TIMEOUT, "The request was too slow", "It did not arrive within 30 seconds. Send it again."
    ),
    # The management API has these two as well.
    "length_required": _Refusal(
        HTTPStatus.LENGTH_REQUIRED, "The length is missing", "Send the body with its Content-Length."
    ),
    "too_large": _Refusal(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "The request is too large",
        f"The body is larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes.",
    ),
    "web_failed": _Refusal(
        HTTPStatus.BAD_GATEWAY,
        "This page was interrupted",
        "Strake's pages stopped before they answered. If you sent a form, check first whether its change was made.",
    ),
    "web_unavailable": _Refusal(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Strake's pages are starting",
        "They do not answer yet. Endpoints and tokens work meanwhile. Try again in a moment. If this persists, tell "
        "the operator of this installation. The log has the details.",
        retry_after=2,
    ),
    "too_many_pages": _Refusal(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Too many pages at once",
        "Strake is answering as many requests from your network, or from everybody, as it can at a time. Try again in "
        "a second.",
        retry_after=1,
    ),
    "web_timeout": _Refusal(
        HTTPStatus.GATEWAY_TIMEOUT,
        "This page took too long",
        "Strake's pages did not answer within 60 seconds. If you sent a form, check first whether its change was made.",
    ),
}


class Refused(Exception):
    """The request is answered here, with the refusal of this code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Relay:
    """The web processes behind `socket`. It serves HTTP only."""

    def __init__(self, socket: Path) -> None:
        self._web = _WebConnections(socket)
        self._pages = _Pages()

    async def handle(self, exchange: Exchange) -> None:
        """Pass a request on, in a task: pages are rare, and need timeouts."""
        try:
            await in_task(self._handle(exchange))
        except asyncio.CancelledError:
            if not exchange.client_left:
                raise

    async def _handle(self, exchange: Exchange) -> None:
        request = ProxyRequest(exchange)
        if no_endpoint.is_call(request):
            await send_response(no_endpoint.response(request), exchange, more_lines=PROTECTION_LINES)
            return
        try:
            with self._pages.counted(_network(request.address)):
                await send_response(await self._respond(request), exchange)
        except Refused as refused:
            await send_response(_refusal(refused.code, request), exchange)
        except (ClientDisconnected, UpstreamBroken):
            # After the head, returning before the end of the body makes the server break the connection off.
            pass

    def close(self) -> None:
        """Close every connection to the web processes. Requests in flight are broken off."""
        self._web.close()

    async def _respond(self, request: ProxyRequest) -> Response:
        """Return the response of the web processes, once its head has arrived. Raises `Refused`."""
        body = await _read_body(request)
        headers = _for_web(request.headers, request.address)
        head = encode_head(request.method, request.exchange.target, headers, _KEEP_ALIVE, chunked=False)
        data = b"".join((head, _KEEP_ALIVE[1], b"\r\n\r\n", body))
        is_safe = request.method in _SAFE_METHODS and not body
        if is_safe and (connection := self._web.take_idle()) is not None:
            # A web process may be closing a kept connection: it ends, or it did not read a body of an earlier request.
            with suppress(UpstreamUnreachable):
                return await self._exchange(connection, request.method, data)
        attempts = SAFE_ATTEMPTS if is_safe else 1
        while True:
            connection = await self._web.connect()
            attempts -= 1
            try:
                return await self._exchange(connection, request.method, data)
            except (UpstreamUnreachable, UpstreamInvalid, TimeoutError) as error:
                if attempts and isinstance(error, UpstreamUnreachable):
                    continue
                logger.warning("web_failed kind=%s", type(error).__name__)
                raise Refused("web_timeout" if isinstance(error, TimeoutError) else "web_failed") from None

    async def _exchange(self, connection: UpstreamConnection, method: str, data: bytes) -> Response:
        """Send a request. Raises `UpstreamUnreachable`, `UpstreamInvalid` or `TimeoutError`."""
        try:
            connection.begin(data, bodyless=method == "HEAD", upgrade=False)
            async with asyncio.timeout(HEAD_SECONDS):
                await connection.head()
        except BaseException:
            self._web.discard(connection)
            raise
        return Response(connection.status, _for_client(connection.headers), _Body(self._web, connection))


class _Body:
    """The body of a response, as a `proxy.http.response.Stream`."""

    def __init__(self, web: _WebConnections, connection: UpstreamConnection) -> None:
        self._web = web
        self._connection = connection
        self.take = connection.take
        self.wait = connection.wait

    @property
    def finished(self) -> bool:
        return self._connection.finished

    def close(self) -> None:
        self._web.give_back(self._connection)


class _WebConnections:
    """Connections to the web processes. Some are kept for the next request, briefly: a page has parts and files."""

    def __init__(self, socket: Path) -> None:
        self._path = str(socket)
        self._idle: list[UpstreamConnection] = []
        self._active: set[UpstreamConnection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_reported = False

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keep a connection whose exchange is over, or else abort it, which tells the web process to stop."""
        is_reusable = connection.is_reusable and not connection.transport.get_write_buffer_size()
        if not is_reusable or len(self._idle) >= MAX_IDLE:
            self.discard(connection)
            return
        self._active.discard(connection)
        connection.last_activity = monotonic()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(KEEPALIVE_SECONDS, self._close_stale)

    def discard(self, connection: UpstreamConnection) -> None:
        self._active.discard(connection)
        connection.abort()

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in (*self._active, *self._idle):
            connection.abort()
        self._active.clear()
        self._idle.clear()

    def take_idle(self) -> UpstreamConnection | None:
        """Return an idle connection that is still open, or None.

        A closed one is readable, even before the event loop has noticed. Nothing has been sent on it, so using another
        one is not a retry.
        """
        oldest = monotonic() - KEEPALIVE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable and connection.last_activity > oldest and not connection.is_readable():
                self._active.add(connection)
                return connection
            connection.abort()
        return None

    async def connect(self) -> UpstreamConnection:
        """Return a new connection, waiting for the web processes if they are not there. Raises `Refused`."""
        loop = asyncio.get_running_loop()
        end = monotonic() + WEB_SECONDS
        while True:
            try:
                _, connection = await loop.create_unix_connection(lambda: UpstreamConnection(loop), self._path)
            except OSError as error:
                if monotonic() >= end:
                    if not self._is_reported:
                        self._is_reported = True
                        logger.warning("web_unavailable kind=%s", type(error).__name__)
                    raise Refused("web_unavailable") from None
            else:
                self._is_reported = False
                self._active.add(connection)
                return connection
            await asyncio.sleep(POLL_SECONDS)

    def _close_stale(self) -> None:
        """Close connections that have been idle for too long: a stopping web process waits for them."""
        self._sweep = None
        oldest = monotonic() - KEEPALIVE_SECONDS
        stale = [connection for connection in self._idle if connection.last_activity <= oldest]
        self._idle = [connection for connection in self._idle if connection.last_activity > oldest]
        for connection in stale:
            connection.abort()
        if self._idle:
            delay = self._idle[0].last_activity - oldest
            self._sweep = asyncio.get_running_loop().call_later(delay, self._close_stale)


class _Pages:
    """Counts the pages that this process relays, in all and by client network."""

    def __init__(self) -> None:
        self._total = 0
        self._by_network: Counter[str] = Counter()

    @contextmanager
    def counted(self, network: str) -> Iterator[None]:
        """Count a page inside a `with` block. Raises `Refused` if there are too many."""
        if self._total >= MAX_PAGES or (network and self._by_network[network] >= MAX_PAGES_PER_NETWORK):
            raise Refused("too_many_pages")
        self._total += 1
        self._by_network[network] += 1
        try:
            yield
        finally:
            self._total -= 1
            self._by_network[network] -= 1
            if not self._by_network[network]:
                del self._by_network[network]


def _network(address: IPAddress | None) -> str:
    """Return the IPv4 address or IPv6 /64 by which a client is counted.

    Returns "" for loopback and Unix sockets: such a client may be a reverse proxy missing from STRAKE_TRUSTED_PROXIES,
    which has many clients.
    """
    return "" if address is None or address.is_loopback else networks(str(address))[0]


async def _read_body(request: ProxyRequest) -> bytes:
    """Return the whole body. Raises `Refused`."""
    if request.header(b"transfer-encoding"):
        raise Refused("length_required")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.body(MAX_BODY_BYTES)
            return body if isinstance(body, bytes) else b"".join([chunk async for chunk in body])
    except BodyTooLarge:
        raise Refused("too_large") from None
    except TimeoutError:
        raise Refused("request_timeout") from None


def _for_web(headers: Headers, address: IPAddress | None) -> Headers:
    """Return the request headers for the web processes, in their order, with the client's address.

    WSGI gives a name with an underscore and one with a dash the same variable, so only dashes pass.
    """
    nominated = nominated_names(headers) - {b"host"}
    passed = [
        pair
        for pair in headers
        if (name := pair[0]) not in _NOT_FOR_WEB
        and name not in nominated
        and b"_" not in name
        and not name.startswith(b"x-forwarded")
        and (not name.startswith(b"x-strake-") or name in _FROM_SCRIPTS)
    ]
    if address is not None:
        passed.append((b"x-strake-client", str(address).encode()))
    return passed


def _for_client(headers: Headers) -> Headers:
    nominated = nominated_names((name.lower(), value) for name, value in headers)
    return [pair for pair in headers if (name := pair[0].lower()) not in _NOT_FOR_CLIENT and name not in nominated]


def _refusal(code: str, request: ProxyRequest) -> Response:
    """Return a response without the web processes: a page, or JSON in the form of the management API."""
    status, heading, message, retry_after = _REFUSALS[code]
    if request.path.startswith(API_PREFIX):
        content_type = b"application/json"
        body = json.dumps({"error": {"code": code, "message": message}}).encode()
    else:
        content_type = b"text/html; charset=utf-8"
        body = _PAGE.format(heading=heading, message=message, status=status.value).encode()
    headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
    ]
    if retry_after:
        headers.append((b"retry-after", b"%d" % retry_after))
    if request.has_unread_body:
        headers.append((b"connection", b"close"))
    return Response(status.value, headers, body)


_PAGE = """\
<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>{heading} · Strake</title>
  </head>
  <body>
    <h1>{heading}</h1>
    <p>{message}</p>
    <p>Error {status}</p>
  </body>
</html>
"""
