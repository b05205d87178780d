"""One request to the proxy, over the raw ASGI receive channel."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from django.conf import settings

from accounts.addresses import IPAddress, client_address
from credentials import providers
from credentials.providers import Dialect
from proxy.errors import BodyTooLarge
from proxy.headers import Headers
from proxy.lookup import Route

Message = MutableMapping[str, Any]

PATH_PREFIX = b"/p/"
_SUBDOMAIN = re.compile(r"[a-z0-9]{12}\Z")


class ClientGone(Exception):
    """The client has closed its connection."""


class ProxyRequest:
    """Method, path and query as raw bytes, headers as raw pairs, and a body that is read only when asked for.

    `subdomain` is "" where the address names no endpoint. `route` is set by the view once it is known, and `in_flight`
    once the request has been counted in.
    """

    __slots__ = (
        "_handler",
        "_receive",
        "_scope",
        "body_read",
        "client_gone",
        "headers",
        "in_flight",
        "method",
        "on_own_host",
        "path",
        "query",
        "route",
        "subdomain",
    )

    def __init__(self, scope: Message, receive: Callable[[], Awaitable[Message]]) -> None:
        self._scope = scope
        self._receive = receive
        self._handler = asyncio.current_task()
        self.method: str = scope.get("method", "GET")
        self.query: bytes = scope["query_string"]
        self.headers: Headers = scope["headers"]
        self.route: Route | None = None
        self.in_flight = False
        self.body_read = False
        self.client_gone = False
        # Only the server sees a client leave while nothing is being received. Waiting on the receive channel for it
        # would cost a task per request, and be blind while an upload is held back.
        on_disconnect = self.extensions.get("strake.on_disconnect")
        if on_disconnect is not None:
            on_disconnect(self._client_left)
        raw_path: bytes = scope["raw_path"]
        if raw_path.startswith(PATH_PREFIX) and not settings.STRAKE_PROXY_DOMAIN:
            name, slash, rest = raw_path[len(PATH_PREFIX) :].partition(b"/")
            self.on_own_host = False
            self.path = slash + rest or b"/"
        else:
            host = self.header(b"host").partition(b":")[0].lower()
            suffix = f".{settings.STRAKE_PROXY_DOMAIN}".encode()
            name = host[: -len(suffix)] if settings.STRAKE_PROXY_DOMAIN and host.endswith(suffix) else b""
            self.on_own_host = True
            self.path = raw_path
        subdomain = name.decode("latin-1")
        self.subdomain = subdomain if _SUBDOMAIN.match(subdomain) else ""

    @property
    def extensions(self) -> MutableMapping[str, Any]:
        return self._scope.get("extensions") or {}

    @property
    def has_empty_query(self) -> bool:
        """Whether the target ends in a bare "?", which ASGI does not tell from none."""
        return not self.query and self.extensions.get("strake.target", b"").endswith(b"?")

    @property
    def address(self) -> IPAddress | None:
        """The client's address, through the configured number of trusted proxies."""
        peer = self._scope.get("client")
        hops = settings.STRAKE_TRUSTED_PROXIES
        forwarded = [value.decode("latin-1") for name, value in self.headers if name == b"x-forwarded-for"]
        return client_address(peer[0] if peer else "", forwarded, hops)

    @property
    def provider_dialect(self) -> Dialect | None:
        """The API of the endpoint's provider, once that is known."""
        provider = providers.PROVIDERS.get(self.route.provider) if self.route is not None else None
        return provider.dialect if provider is not None else None

    @property
    def dialect(self) -> Dialect:
        """Whose SDK is calling: the endpoint's provider tells, else what the request looks like."""
        known = self.provider_dialect
        if known is not None and known is not Dialect.OPENAI:
            return known
        names = {name for name, _ in self.headers}
        if b"anthropic-version" in names or (b"x-api-key" in names and b"authorization" not in names):
            return Dialect.ANTHROPIC
        if b"x-goog-api-key" in names or self.query.startswith(b"key=") or b"&key=" in self.query:
            return Dialect.GEMINI
        return Dialect.OPENAI

    def header(self, name: bytes) -> bytes:
        """The first value of a header, or empty."""
        for known, value in self.headers:
            if known == name:
                return value
        return b""

    @property
    def has_unread_body(self) -> bool:
        """Whether the client sends, or may still be sending, a body that nobody has read to its end."""
        length = self.header(b"content-length")
        return not self.body_read and (bool(length.strip(b"0")) or bool(self.header(b"transfer-encoding")))

    async def body(self, most: int) -> bytes | AsyncIterator[bytes]:
        """The whole body where it is there already and its length was declared, else a stream of it.

        Counts what arrives: raises `BodyTooLarge` above `most` bytes, here or while streaming, and `ClientGone`.
        """
        declared = self.header(b"content-length")
        if declared and int(declared) > most:
            raise BodyTooLarge
        message = await self._next()
        first: bytes = message.get("body", b"")
        if message.get("more_body", False):
            return self._stream(first, most)
        self.body_read = True
        if self.header(b"transfer-encoding"):
            return _once(first)  # chunked stays chunked
        return first

    async def _stream(self, first: bytes, most: int) -> AsyncIterator[bytes]:
        total = len(first)
        yield first
        more = True
        while more:
            message = await self._next()
            chunk: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            total += len(chunk)
            if total > most:
                raise BodyTooLarge
            self.body_read = not more
            yield chunk

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.client_gone = True
            raise ClientGone
        return message

    def _client_left(self) -> None:
        """Ends the request, whatever it is waiting for."""
        self.client_gone = True
        if self._handler is not None:
            self._handler.cancel()


async def _once(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk
