"""The forwarding view: look up, check limits, unseal, forward."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple, Self

from django.conf import settings

from accounts import tokens
from credentials import keyring
from credentials.errors import InvalidDestination, SealError
from credentials.keyring import Keyring
from credentials.providers import SECRET_PLACEHOLDER, Dialect
from credentials.sealing import wipe
from proxy import headers, limits, paths, presented
from proxy.errors import METHODS, MethodNotAllowed, NeedsKeyAgain, UnknownEndpoint
from proxy.headers import Headers
from proxy.limits import InFlight
from proxy.lookup import Lookup, Route
from proxy.rates import Rate, Rates
from proxy.request import ProxyRequest
from proxy.unsealing import open_key
from proxy.upstream import Origin, Upstream, UpstreamResponse, destination


class Answer(NamedTuple):
    """What goes back to the client: a body of our own, or the upstream's as it arrives."""

    status: int
    headers: Headers
    body: bytes | UpstreamResponse


class Admitted(NamedTuple):
    """A request that may be forwarded: its token, their row, the keyring of that moment, where its rate stands."""

    token: str
    route: Route
    ring: Keyring
    rate: Rate | None


class Addressed:
    """Where a request goes, and the real key. On leaving the context, the memory that holds the key is overwritten."""

    __slots__ = ("key_header", "netloc", "origin", "secret", "target")

    def __init__(
        self, origin: Origin, netloc: bytes, target: bytes, key_header: tuple[bytes, bytearray], secret: bytearray
    ) -> None:
        self.origin = origin
        self.netloc = netloc
        self.target = target
        self.key_header = key_header
        self.secret = secret

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wipe(self.secret)
        wipe(self.key_header[1])


async def forward(
    request: ProxyRequest, *, lookup: Lookup, rates: Rates, in_flight: InFlight, upstream: Upstream
) -> Answer:
    """Forward one request with the real key in place of the caller's token.

    Returns as soon as the head of the provider's answer is there. Raises `proxy.errors.ProxyError` for everything
    Strake answers itself, and `ClientGone`.
    """
    admitted = await admit(request, lookup=lookup, rates=rates, in_flight=in_flight)
    body = await request.body(settings.STRAKE_MAX_BODY_MB * 1024 * 1024)
    with addressed(request, admitted) as to:
        response = await upstream.send(
            to.origin,
            request.method,
            to.target,
            headers.for_upstream(request.headers, to.netloc, to.key_header[0], token=admitted.token.encode()),
            to.key_header,
            body,
        )
        answer_headers = headers.for_client(response.headers, to.secret, sandbox=not request.on_own_host)
    if admitted.rate is not None:
        headers.add_unless_given(answer_headers, admitted.rate.headers())
    return Answer(response.status, answer_headers, response)


async def admit(request: ProxyRequest, *, lookup: Lookup, rates: Rates, in_flight: InFlight) -> Admitted:
    """Check address, token and limits, and count the request in. Raises `proxy.errors.ProxyError`."""
    if not request.subdomain:
        raise UnknownEndpoint
    if request.method not in METHODS:
        raise MethodNotAllowed
    paths.check_path(request.path)
    paths.check_query(request.query)
    token = presented.find_token(request.headers, request.query)
    route = await lookup.find(request.subdomain, tokens.digest(token))
    if route is None:
        raise UnknownEndpoint
    request.route = route
    # Of the moment the row was read: while a long body arrives, the row may be rewrapped and its old key retired.
    ring = keyring.current()
    address = request.address if route.allowed_networks else None  # parsing it costs more than most checks
    limits.check(route, method=request.method, path=request.path, address=address)
    in_flight.enter(route.endpoint_id, route.max_streams)
    request.in_flight = True
    rate = None
    if route.token_id is not None and route.requests_per_minute is not None:
        rate = await rates.take(route.token_id, route.requests_per_minute)
    return Admitted(token, route, ring, rate)


def addressed(request: ProxyRequest, admitted: Admitted) -> Addressed:
    """Open the sealed key and put it where the provider wants it. Raises `NeedsKeyAgain` or `BadPath`."""
    route = admitted.route
    try:
        origin, netloc, base_path = destination(route.destination_url)
    except InvalidDestination:
        raise NeedsKeyAgain from None  # it was edited behind the seal, which would not open for it
    query = request.query
    if query:
        query = presented.without_key(query, drop_any=request.provider_dialect is Dialect.GEMINI, token=admitted.token)
    target = paths.target(base_path, request.path, query)
    if not query and request.has_empty_query:
        target += b"?"
    before_and_after_key = route.header_template.encode().split(SECRET_PLACEHOLDER.encode())
    try:
        secret = open_key(route.sealed, route.binding, admitted.ring)
    except SealError:
        raise NeedsKeyAgain from None
    # Joined and not replaced: that makes no copy which could not be wiped.
    return Addressed(origin, netloc, target, (route.header_name.encode(), secret.join(before_and_after_key)), secret)
