"""A request to the proxy, read directly from the ASGI receive channel."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import Any
from uuid import UUID

from django.conf import settings

from accounts.addresses import IPAddress, client_address, parse_address
from credentials import providers
from credentials.providers import Dialect
from proxy.access.in_flight import Flight
from proxy.access.route import Route
from proxy.errors import BodyTooLarge, ProxyError
from proxy.server.asgi import Headers, Message, Receive, Scope
from proxy.server.websocket import EXTENSION

PATH_PREFIX = b"/p/"
_SUBDOMAIN = re.compile(r"[a-z0-9]{12}\Z")


class ClientDisconnected(Exception):
    """The client has closed its connection."""


class ProxyRequest:
    """Path and query as raw bytes, headers as raw pairs, and a body that is read only on request.

    `path` is what follows the endpoint's URL, and b"" if that is called as it is. Clients send the URL of an endpoint's
    own host with "/" in either case, so there "/" counts as b"".

    `names` are the names of `headers` as the client spelled them.

    `subdomain` is "" if the URL names no endpoint, or none that can exist: then `names_endpoint` is true. The view sets
    `is_browser` and `origin`, the origin of the web page or b"", first, `digest`, the token's, before the look-up,
    `route` after it, `is_allowed_origin` if the token lists the origin, `flight` when the request counts as in flight,
    and `forwarded` once nothing of Strake's own can refuse the request any more.
    `opened` is set when the provider has accepted a WebSocket handshake.

    `error` is the code of the error that Strake responded with or ended the request with. `refused_token` is set in
    place of `route` if the request is refused without a look-up: the ids of its endpoint and token.
    """

    __slots__ = (
        "_handler",
        "_receive",
        "_scope",
        "body_read",
        "client_disconnected",
        "digest",
        "error",
        "flight",
        "forwarded",
        "headers",
        "is_allowed_origin",
        "is_browser",
        "method",
        "names",
        "names_endpoint",
        "on_own_host",
        "opened",
        "origin",
        "path",
        "query",
        "refused_token",
        "route",
        "subdomain",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self._handler = asyncio.current_task()
        self.method: str = scope.get("method", "GET")
        self.query: bytes = scope["query_string"]
        self.headers: Headers = scope["headers"]
        self.names: list[bytes] | None = self.extensions.get("strake.names")
        self.route: Route | None = None
        self.flight: Flight | None = None
        self.is_browser = False
        self.origin = b""
        self.is_allowed_origin = False
        self.digest = b""
        self.error = ""
        self.forwarded = False
        self.opened = False
        self.refused_token: tuple[UUID, str] | None = None
        self.body_read = False
        self.client_disconnected = False
        # Waiting for a disconnect on the receive channel would cost a task per request, and would miss it while reading
        # is paused.
        response = self.extensions.get("strake.response")
        if response is not None:
            response.on_disconnect(self._cancel_handler)
        raw_path: bytes = scope["raw_path"]
        if raw_path.startswith(PATH_PREFIX) and not settings.STRAKE_PROXY_DOMAIN:
            name, slash, rest = raw_path[len(PATH_PREFIX) :].partition(b"/")
            self.on_own_host = False
            self.names_endpoint = True
            self.path = slash + rest
        else:
            host = self.header(b"host").partition(b":")[0].lower()
            suffix = f".{settings.STRAKE_PROXY_DOMAIN}".encode()
            name = host[: -len(suffix)] if settings.STRAKE_PROXY_DOMAIN and host.endswith(suffix) else b""
            self.on_own_host = True
            self.names_endpoint = bool(name)
            self.path = b"" if raw_path == b"/" else raw_path
        subdomain = name.decode("latin-1")
        self.subdomain = subdomain if _SUBDOMAIN.match(subdomain) else ""

    @property
    def extensions(self) -> MutableMapping[str, Any]:
        return self._scope.get("extensions") or {}

    @property
    def has_empty_query(self) -> bool:
        """Whether the target ends with "?". ASGI cannot express that."""
        return not self.query and self.extensions.get("strake.target", b"").endswith(b"?")

    @property
    def address(self) -> IPAddress | None:
        """The client's address, behind the configured number of trusted proxies.

        The connection test comes from a web process, over a socket that only those can reach. It names the address.
        """
        if self.extensions.get("strake.internal"):
            return parse_address(self.header(b"x-strake-client").decode("latin-1"))
        peer = self._scope.get("client")
        hops = settings.STRAKE_TRUSTED_PROXIES
        forwarded = [value.decode("latin-1") for name, value in self.headers if name == b"x-forwarded-for"]
        return client_address(peer[0] if peer else "", forwarded, hops)

    @property
    def provider_dialect(self) -> Dialect | None:
        """The API that the endpoint's provider speaks, or None before the look-up and for unknown providers."""
        provider = providers.PROVIDERS.get(self.route.provider) if self.route is not None else None
        return provider.dialect if provider is not None else None

    @property
    def dialect(self) -> Dialect:
        """The SDK that probably sent the request, judged by the endpoint's provider or else by the headers."""
        dialect = self.provider_dialect
        if dialect is not None and dialect is not Dialect.OPENAI:
            return dialect
        names = {name for name, _ in self.headers}
        if b"anthropic-version" in names or (b"x-api-key" in names and b"authorization" not in names):
            return Dialect.ANTHROPIC
        if b"x-goog-api-key" in names or self.query.startswith(b"key=") or b"&key=" in self.query:
            return Dialect.GEMINI
        return Dialect.OPENAI

    def header(self, name: bytes) -> bytes:
        """Return the first value of a header, or b""."""
        for header, value in self.headers:
            if header == name:
                return value
        return b""

    @property
    def has_unread_body(self) -> bool:
        """Whether the client may still be sending a body that has not been read completely."""
        length = self.header(b"content-length")
        return not self.body_read and (bool(length.strip(b"0")) or bool(self.header(b"transfer-encoding")))

    def drop_headers(self, is_dropped: Callable[[tuple[bytes, bytes]], bool]) -> None:
        """Remove the headers for which `is_dropped` is true."""
        kept = [index for index, pair in enumerate(self.headers) if not is_dropped(pair)]
        if self.names is not None:
            self.names = [self.names[index] for index in kept]
        self.headers = [self.headers[index] for index in kept]

    async def body(self, max_bytes: int) -> bytes | AsyncIterator[bytes]:
        """Return the body as bytes if all of it has arrived and it has a Content-Length, or else as a stream.

        Raises `BodyTooLarge` above `max_bytes`, and `ClientDisconnected`, both here or from the stream.
        """
        declared = self.header(b"content-length")
        if declared and int(declared) > max_bytes:
            raise BodyTooLarge
        message = await self._next()
        first: bytes = message.get("body", b"")
        if message.get("more_body", False):
            return self._stream(first, max_bytes)
        self.body_read = True
        if self.header(b"transfer-encoding"):
            return _stream_of(first)  # chunked stays chunked
        return first

    async def _stream(self, first: bytes, max_bytes: int) -> AsyncIterator[bytes]:
        total = len(first)
        yield first
        more = True
        while more:
            message = await self._next()
            chunk: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            total += len(chunk)
            if total > max_bytes:
                raise BodyTooLarge
            self.body_read = not more
            yield chunk

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.client_disconnected = True
            raise ClientDisconnected
        return message

    @property
    def ended(self) -> ProxyError | None:
        """Why the request's access has ended while it was in flight, or None."""
        return self.flight.ended if self.flight is not None else None

    def break_off(self) -> None:
        """End the response that is being sent, so that the client sees that it is incomplete."""
        response = self.extensions.get("strake.response")
        if response is not None:
            response.end()

    def end(self) -> None:
        """Cancel the handler: the request's access has ended. A WebSocket connection is closed with a reason."""
        websocket = self.extensions.get(EXTENSION)
        if websocket is not None:
            websocket.end()
        elif self._handler is not None:
            self._handler.cancel()

    def _cancel_handler(self) -> None:
        self.client_disconnected = True
        if self._handler is not None:
            self._handler.cancel()


async def _stream_of(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk
