"""A request to the proxy: its endpoint, and what the view finds out about it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from time import perf_counter
from uuid import UUID

from django.conf import settings

from accounts import request_ids
from accounts.addresses import IPAddress, client_address, parse_address
from credentials.providers import Dialect
from proxy.access.in_flight import Flight
from proxy.access.rate_limits import Rate
from proxy.access.route import Route
from proxy.access.upload_capability import Upload
from proxy.errors import BodyTooLarge, ProxyError
from proxy.http.names import CONTENT_LENGTH, NAMES, TRANSFER_ENCODING, Headers
from proxy.server.exchange import ClientDisconnected, Exchange

PATH_PREFIX = b"/p/"
_SUBDOMAIN = re.compile(rb"[a-z0-9]{12}\Z")

__all__ = ["PATH_PREFIX", "ClientDisconnected", "ProxyRequest"]


class ProxyRequest:
    """Path and query as raw bytes, headers as raw pairs, and a body that is read only on request.

    `path` is what follows the endpoint's URL, and b"" if that is called as it is. Clients send the URL of an endpoint's
    own host with "/" in either case, so there "/" counts as b"".

    `passing` are the headers that may pass to the provider, with names as the client spelled them, and `kinds` is what
    the headers are (`proxy.http.names`).

    `subdomain` is "" if the URL names no endpoint, or none that can exist: then `names_endpoint` is true. The view sets
    `is_browser` and `origin`, the origin of the web page or b"", first, `digest`, the token's, before the look-up,
    `route` after it, `is_allowed_origin` if the token lists the origin, `flight` when the request counts as in flight,
    `rate` if the token has a rate limit, `upload` if the request is for an upload URL,
    and `forwarded` once nothing of Strake's own can refuse the request any more.
    `opened` is set when the provider has accepted a WebSocket handshake. `waited` is how many seconds it took until the
    client began to send its body.

    `error` is the code of the error that Strake responded with or ended the request with. `refused_token` is set in
    place of `route` if the request is refused without a look-up: the ids of its endpoint and token.
    """

    # The usual values, so that a request costs no more than what is special about it.
    route: Route | None = None
    flight: Flight | None = None
    rate: Rate | None = None
    upload: Upload | None = None
    on_own_host = False
    names_endpoint = True
    is_browser = False
    origin = b""
    is_allowed_origin = False
    digest = b""
    error = ""
    forwarded = False
    opened = False
    refused_token: tuple[UUID, str] | None = None
    body_read = False
    waited = 0.0
    _request_id = ""

    def __init__(self, exchange: Exchange, domain: str | None = None) -> None:
        """`domain` is `STRAKE_PROXY_DOMAIN`, for a caller that has it at hand."""
        self.exchange = exchange
        self.method = exchange.method
        self.query = exchange.query
        self.headers: Headers = exchange.headers
        self.passing = exchange.passing
        self.kinds = exchange.kinds
        path = exchange.path
        if domain is None:
            domain = settings.STRAKE_PROXY_DOMAIN
        if not domain and path[: len(PATH_PREFIX)] == PATH_PREFIX:
            name, slash, rest = path[len(PATH_PREFIX) :].partition(b"/")
            self.path = slash + rest
        else:
            host = self.header(b"host").partition(b":")[0].lower()
            suffix = f".{domain}".encode()
            name = host[: -len(suffix)] if domain and host.endswith(suffix) else b""
            self.on_own_host = True
            self.names_endpoint = bool(name)
            self.path = b"" if path == b"/" else path
        self.subdomain = name.decode("ascii") if _SUBDOMAIN.match(name) else ""

    @property
    def request_id(self) -> str:
        """The id for the log and for the response, if Strake itself responds. It is made when it is first asked for."""
        if not self._request_id:
            self._request_id = request_ids.new()
        return self._request_id

    @property
    def client_disconnected(self) -> bool:
        """Whether the client has left before the response was complete."""
        return self.exchange.client_left

    @property
    def has_empty_query(self) -> bool:
        """Whether the target ends with "?"."""
        return not self.query and self.exchange.target[-1:] == b"?"

    @property
    def address(self) -> IPAddress | None:
        """The client's address, behind the configured number of trusted proxies.

        The connection test comes from a web process, over a socket that only those can reach. It names the address.
        """
        if self.exchange.is_internal:
            return parse_address(self.header(b"x-strake-client").decode("latin-1"))
        peer = self.exchange.client
        hops = settings.STRAKE_TRUSTED_PROXIES
        forwarded = [value.decode("latin-1") for name, value in self.headers if name == b"x-forwarded-for"]
        return client_address(peer[0] if peer else "", forwarded, hops)

    @property
    def provider_dialect(self) -> Dialect | None:
        """The API that the endpoint's provider speaks, or None before the look-up and for unknown providers."""
        return self.route.dialect if self.route is not None else None

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
        if self.body_read or not self.kinds & (CONTENT_LENGTH | TRANSFER_ENCODING):
            return False
        return bool(self.header(b"content-length").strip(b"0") or self.header(b"transfer-encoding"))

    def drop_headers(self, is_dropped: Callable[[tuple[bytes, bytes]], bool]) -> None:
        """Remove the headers for which `is_dropped` is true of the name in lower case and the value."""
        self.headers = [pair for pair in self.headers if not is_dropped(pair)]
        self.passing = [pair for pair in self.passing if not is_dropped((NAMES[pair[0]].lower, pair[1]))]

    async def body(self, max_bytes: int) -> bytes | AsyncIterator[bytes]:
        """Return the body as bytes if all of it has arrived and it has a Content-Length, or else as a stream.

        Raises `BodyTooLarge` above `max_bytes`, and `ClientDisconnected`, both here or from the stream.
        """
        exchange = self.exchange
        if exchange.more_body:
            if self.kinds & CONTENT_LENGTH and int(self.header(b"content-length")) > max_bytes:
                raise BodyTooLarge
            started = perf_counter()
            first = await exchange.read()
            self.waited = perf_counter() - started
            if exchange.more_body:
                return self._stream(first, max_bytes)
        else:
            first = exchange.take()
        if len(first) > max_bytes:
            raise BodyTooLarge
        self.body_read = True
        if self.kinds & TRANSFER_ENCODING:
            return _stream_of(first)  # chunked stays chunked
        return first

    async def _stream(self, first: bytes, max_bytes: int) -> AsyncIterator[bytes]:
        total = len(first)
        yield first
        while not self.body_read:
            chunk = await self.exchange.read()
            total += len(chunk)
            if total > max_bytes:
                raise BodyTooLarge
            self.body_read = not self.exchange.more_body
            yield chunk

    @property
    def ended(self) -> ProxyError | None:
        """Why the request's access has ended while it was in flight, or None."""
        return self.flight.ended if self.flight is not None else None

    def break_off(self) -> None:
        """End the response that is being sent, so that the client sees that it is incomplete."""
        if self.exchange.websocket is None:
            self.exchange.end()

    def end(self) -> None:
        """Cancel the handler: the request's access has ended. A WebSocket connection is closed with a reason."""
        websocket = self.exchange.websocket
        if websocket is not None:
            websocket.end()
        else:
            self.exchange.cancel()


async def _stream_of(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk
