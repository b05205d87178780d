"""Talk to providers: an `httpx` transport on aiohttp's connector, called directly, without an `httpx` client.

What each layer is for: `httpx.Request` and `httpx.Response` are the interface; aiohttp's connector pools connections,
resolves names through the egress guard and verifies TLS; aiohttp's C parser reads answers. The request head is
written here, byte for byte as given, since every client library would re-encode the path and fold headers.

No cookies, no redirects, no decompression, no proxies from the environment, no retries: there is no code for them.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from django.conf import settings
from yarl import URL

from credentials.egress import ForbiddenAddress, Guard, Holes
from proxy.errors import UpstreamForbidden, UpstreamIdle, UpstreamInvalid, UpstreamUnreachable

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 600.0
# Below what servers and load balancers commonly allow (60 s and more), so that it is seldom they who close first.
KEEPALIVE_SECONDS = 25.0
BUFFER_BYTES = 64 * 1024

_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_connect=CONNECT_SECONDS)


class UpstreamBroken(Exception):
    """The answer ended before its end, after its head had been passed on. The client must see a broken answer too."""


class UpstreamTransport(httpx.AsyncBaseTransport):
    """One per process. Create it inside the running event loop."""

    def __init__(self) -> None:
        holes = Holes(settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS)
        self._connectors = {"https": _connector(holes, plain=False), "http": _connector(holes, plain=True)}
        self._origins: dict[tuple[str, str, int | None], aiohttp.ClientRequest] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request and return as soon as the head of the answer is there.

        The request target is `request.extensions["target"]`, raw. A body that is not `httpx.ByteStream` is streamed
        with its `content-length`, or chunked where there is none. The caller closes `response.stream`.
        Raises the `BadGateway` family of `proxy.errors`, `UpstreamIdle`, or whatever the request stream raises.
        """
        connection = await self._connect(request.url)
        protocol = connection.protocol
        transport = connection.transport
        if protocol is None or transport is None:
            raise UpstreamUnreachable
        upload: asyncio.Task[None] | None = None
        try:
            protocol.set_response_params(
                skip_payload=request.method == "HEAD",
                read_until_eof=True,
                auto_decompress=False,
                read_timeout=IDLE_SECONDS,
                read_bufsize=BUFFER_BYTES,
                max_line_size=16 * 1024,
                max_field_size=64 * 1024,
                max_headers=512,
            )
            head = _head(request)
            if isinstance(request.stream, httpx.ByteStream):
                transport.write(head + b"".join(request.stream))
            else:
                transport.write(head)
                upload = asyncio.create_task(_upload(request, protocol, transport))
            protocol.start_timeout()
            message, payload = await _read_head(protocol, upload)
        except BaseException as error:
            if upload is not None:
                upload.cancel()
            connection.close()
            if isinstance(error, Exception):
                raise _mapped(error) from None
            raise
        return httpx.Response(
            message.code,
            headers=message.raw_headers,
            stream=ResponseBody(connection, protocol, payload, upload),
        )

    async def aclose(self) -> None:
        for connector in self._connectors.values():
            await connector.close()

    async def _connect(self, url: httpx.URL) -> Connection:
        """A connection to the origin of `url`: a pooled one that is surely alive, or a new one."""
        origin = self._origin(url)
        while True:
            try:
                connection = await self._connectors[url.scheme].connect(origin, [], _TIMEOUT)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise _mapped(error) from None
            # A server that closed an idle connection has made its socket readable, perhaps without the event loop
            # having looked yet. Found out before a byte is sent, taking another connection is no retry.
            if connection.transport is not None and not _is_readable(connection.transport):
                return connection
            connection.close()

    def _origin(self, url: httpx.URL) -> aiohttp.ClientRequest:
        """What the connector wants to know of a request: the same for all requests to one origin, so made once."""
        key = (url.scheme, url.host, url.port)
        origin = self._origins.get(key)
        if origin is None:
            if len(self._origins) >= 4096:
                self._origins.clear()
            # The full stop of an absolute name would not match the certificate; URLs are stored without it.
            origin = aiohttp.ClientRequest(
                "GET", URL(f"{url.scheme}://{url.netloc.decode('ascii')}/"), loop=asyncio.get_running_loop(), ssl=True
            )
            self._origins[key] = origin
        return origin


class ResponseBody(httpx.AsyncByteStream):
    """The raw bytes of an answer, as they arrive. Close it in any case; what is left unread costs its owner money."""

    __slots__ = ("_connection", "_payload", "_protocol", "_upload")

    def __init__(
        self, connection: Connection, protocol: ResponseHandler, payload: Any, upload: asyncio.Task[None] | None
    ) -> None:
        self._connection = connection
        self._protocol = protocol
        self._payload = payload
        self._upload = upload

    @property
    def finished(self) -> bool:
        """Whether everything has been read."""
        return bool(self._payload.at_eof())

    async def read(self) -> bytes:
        """The bytes that are there, waiting for some if there are none; empty at the end. Raises `UpstreamBroken`."""
        try:
            return bytes(await self._payload.readany())
        except (aiohttp.ClientError, OSError, TimeoutError, HttpProcessingError) as error:
            raise UpstreamBroken(type(error).__name__) from None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.read():
            yield chunk

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back if the exchange is over on both sides; else close it, which stops the upstream."""
        upload = self._upload
        if upload is not None and not upload.done():
            upload.cancel()
            self._connection.close()
        elif self.finished and self._payload.exception() is None:
            self._connection.release()
        else:
            self._connection.close()


@lru_cache(maxsize=4096)
def destination(url: str) -> tuple[httpx.URL, bytes, bytes]:
    """A stored destination URL as the transport wants it: its URL, the Host value, and the base path."""
    parsed = httpx.URL(url)
    return parsed, parsed.netloc, parsed.raw_path.rstrip(b"/")


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


def _connector(holes: Holes, *, plain: bool) -> aiohttp.TCPConnector:
    guard = Guard(holes, plain=plain)
    return aiohttp.TCPConnector(
        resolver=guard,  # type: ignore[arg-type]  # has the interface without importing it
        socket_factory=guard.socket,
        ttl_dns_cache=10,
        limit=0,
        keepalive_timeout=KEEPALIVE_SECONDS,
    )


def _head(request: httpx.Request) -> bytes:
    headers = request.headers.raw
    if not isinstance(request.stream, httpx.ByteStream) and "content-length" not in request.headers:
        headers = [*headers, (b"transfer-encoding", b"chunked")]
    lines = [b"%b: %b\r\n" % pair for pair in headers]
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method.encode(), request.extensions["target"], b"".join(lines))
    # Whatever got in, a line break did not: it would be a second header, or a second request.
    if head.count(b"\n") != len(lines) + 2 or head.count(b"\r") != len(lines) + 2:
        raise UpstreamInvalid
    return head


async def _upload(request: httpx.Request, protocol: ResponseHandler, transport: asyncio.Transport) -> None:
    chunked = "content-length" not in request.headers
    if not isinstance(request.stream, httpx.AsyncByteStream):
        raise TypeError("A request body is bytes or an asynchronous stream.")
    async for chunk in request.stream:
        if chunk:
            transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
            await protocol._drain_helper()  # noqa: SLF001  (waits while the transport's buffer is full)
    if chunked:
        transport.write(b"0\r\n\r\n")


async def _read_head(protocol: ResponseHandler, upload: asyncio.Task[None] | None) -> tuple[Any, Any]:
    """The final answer's head. An upload that fails ends the wait; one that is not finished yet does not matter."""
    while True:
        if upload is None or upload.done():
            if upload is not None:
                upload.result()
            message, payload = await protocol.read()
        else:
            reading = asyncio.ensure_future(protocol.read())
            try:
                await asyncio.wait({reading, upload}, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    upload.result()
                message, payload = await reading
            finally:
                reading.cancel()
        if message.code == 101:
            raise UpstreamInvalid
        if message.code >= 200:
            return message, payload


def _is_readable(transport: asyncio.Transport) -> bool:
    connection = transport.get_extra_info("socket")
    if connection is None or transport.is_closing():
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _mapped(error: Exception) -> Exception:
    """What an error of aiohttp or of the system is for the client. The original's text may quote the request."""
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientOSError) and isinstance(
        getattr(error, "os_error", error), ForbiddenAddress
    ):
        return UpstreamForbidden()
    if isinstance(error, aiohttp.SocketTimeoutError):
        return UpstreamIdle()
    if isinstance(error, HttpProcessingError):
        return UpstreamInvalid()
    if isinstance(error, aiohttp.ClientError | OSError | TimeoutError):
        return UpstreamUnreachable()
    return error
