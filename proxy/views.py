"""The forwarding view: look the endpoint up, check the token and its limits, open the sealed key, forward."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from http import HTTPStatus
from types import TracebackType
from typing import Any, Protocol, Self

from accounts import tokens
from credentials.errors import SealError
from credentials.providers import Dialect
from credentials.vault import keyring
from credentials.vault.keyring import Keyring
from credentials.vault.sealing import wipe
from proxy.access import bearer_auth, browsers, policy, upload_capability
from proxy.access.auth_throttle import AuthThrottle
from proxy.access.budgets import Budgets
from proxy.access.in_flight import InFlight
from proxy.access.rate_limits import RateLimits
from proxy.access.route import Route
from proxy.access.route_lookup import Lookup
from proxy.access.upload_capability import Upload
from proxy.errors import METHODS, MethodNotAllowed, NeedsKeyAgain, TokenInPath, UnknownEndpoint
from proxy.http import headers, hop, no_endpoint, response_urls
from proxy.http.names import CONNECTION, FROM_BROWSER, HOLDS_URL, HOP_MARKER, Headers
from proxy.http.request import ProxyRequest
from proxy.http.response import Response
from proxy.http.target import build_target, check_path, check_query
from proxy.unsealing import open_key
from proxy.upstream.origin import Origin
from proxy.upstream.pool import ConnectionPool, UpstreamResponse
from proxy.upstream.renewals import DerivedSecret, Renewals


class Shared(Protocol):
    """What the requests of one process share."""

    lookup: Lookup
    rate_limits: RateLimits
    budgets: Budgets
    auth_throttle: AuthThrottle
    in_flight: InFlight
    pool: ConnectionPool
    renewals: Renewals
    max_body_bytes: int


class UpstreamTarget:
    """Where a request is sent, and the provider key. Leaving the context overwrites the memory that holds the key."""

    __slots__ = ("hops", "key_header", "key_lines", "netloc", "origin", "own", "route", "secret", "target")

    def __init__(
        self,
        origin: Origin,
        netloc: bytes,
        target: bytes | bytearray,
        key_header: tuple[bytes, bytearray],
        secret: bytearray,
        *,
        route: Route,
        hops: list[bytes],
        own: frozenset[bytes] = frozenset(),
        key_lines: int = 1,
    ) -> None:
        """`target` is a bytearray if it holds the key too. `key_header` and `key_lines` are as for the pool.

        `own` are the folded names of the headers that hold the key.
        """
        self.origin = origin
        self.netloc = netloc
        self.target = target
        self.key_header = key_header
        self.key_lines = key_lines
        self.secret = secret
        self.route = route
        self.hops = hops
        self.own = own

    def send(
        self,
        pool: ConnectionPool,
        method: str,
        headers: Headers,
        body: bytes | AsyncIterator[bytes],
        *,
        upgrade: bool = False,
    ) -> Coroutine[Any, Any, UpstreamResponse]:
        """Send a request with the provider key. Adds the hop marker to `headers` if a person chose the destination.

        Raises as `ConnectionPool.send` does.
        """
        route = self.route
        if not route.is_fixed:
            hop.mark(headers, self.hops)
        return pool.send(
            self.origin,
            method,
            self.target,
            headers,
            self.key_header,
            body,
            credential_id=route.connection_id,
            owner_id=route.owner_id,
            owner_email=route.owner_email,
            key_lines=self.key_lines,
            upgrade=upgrade,
        )

    def headers_of(self, request: ProxyRequest) -> Headers:
        """Return the request headers for the provider, without the key's and what `ConnectionPool.send` adds last."""
        nominated = headers.nominated_names(request.headers) if request.kinds & CONNECTION else ()
        passed = headers.for_upstream(request.passing, self.netloc, self.own, nominated)
        if self.key_header[0] == b"host":  # sent in the place of a key
            del passed[0]
        return passed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wipe(self.secret)
        wipe(self.key_header[1])
        if isinstance(self.target, bytearray):
            wipe(self.target)


async def forward(request: ProxyRequest, shared: Shared) -> Response:
    """Forward a request with the provider key in place of the client's token.

    Returns when the head of the provider's response has arrived. Raises `proxy.errors.ProxyError` and
    `ClientDisconnected`.
    """
    route, ring = await authorize(request, shared)
    body = await request.body(shared.max_body_bytes)
    derived = None
    if route.buys_token and request.upload is None:
        derived = await access_token(request, route, ring, shared.renewals)
    with resolve_target(request, route, ring, derived) as upstream:
        request_headers = upstream.headers_of(request)
        response = await upstream.send(shared.pool, request.method, request_headers, body)
        response_headers = headers.for_client(
            response.headers,
            response.kinds,
            upstream.secret,
            to_browser=request.is_browser and not request.on_own_host,
        )
        reason: bytes | None = response.reason
        if reason and len(reason) >= len(upstream.secret):
            reason = headers.reason_for_client(reason, upstream.secret)
    if derived is not None and response.status == HTTPStatus.UNAUTHORIZED:
        await give_up(derived, route, ring, response, shared.renewals)
    if request.upload is not None or response.kinds & HOLDS_URL:
        response_headers = await map_urls(response_headers, request, route, response)
    if request.rate is not None:
        headers.add_missing(response_headers, request.rate.headers())
    return Response(response.status, response_headers, response, reason)


async def authorize(request: ProxyRequest, shared: Shared) -> tuple[Route, Keyring]:
    """Check the path, the token and its limits, and count the request as in flight.

    Returns the route, and the keyring as of the look-up: while a long body arrives, the row may be rewrapped and its
    old master key retired. Raises `proxy.errors.ProxyError`.
    """
    if request.kinds & FROM_BROWSER:
        browsers.check(request)
    if not request.subdomain:
        raise UnknownEndpoint if request.names_endpoint else no_endpoint.error()
    method, path = request.method, request.path
    if method not in METHODS:
        raise MethodNotAllowed
    check_path(path)
    if request.query:
        check_query(request.query)
    if tokens.contains(path):
        raise TokenInPath
    sealed_upload = None
    secret = upload_capability.secret_in(path)
    if secret is None:
        request.digest = bearer_auth.find_digest(request.headers, request.query, shared.lookup.knows)
        shared.auth_throttle.check(request)
    else:
        sealed_upload = await upload_capability.find(secret)
        request.digest = sealed_upload.token_digest
    route = await shared.lookup.find(request.subdomain, request.digest)
    if route is None:
        raise UnknownEndpoint
    request.route = route
    ring = keyring.recent(route.master_key_id)
    parent = route.parent
    is_limited = route.networks or (parent is not None and parent.networks)
    address = request.address if is_limited else None  # parsing it costs more than most checks
    checked_path = path or b"/" if sealed_upload is None else None
    policy.check(route, method=method, path=checked_path, address=address, origin=request.origin)
    if request.origin and request.origin in route.origins:
        request.is_allowed_origin = True
        # Strake has decided about it. Providers such as Ollama refuse origins that they do not know.
        request.drop_headers(lambda pair: pair[0] == b"origin")
    if sealed_upload is not None:
        request.upload = sealed_upload.open(route)
    request.flight = shared.in_flight.enter(route, request.digest, request.end)
    if route.is_metered:
        await _meter(request, route, shared)
    return route, ring


async def _meter(request: ProxyRequest, route: Route, shared: Shared) -> None:
    """Count a request for the budgets and the rates of its token and of that one's parent.

    Raises `BudgetExceeded` or `RateLimited`.
    """
    if route.budgets:
        await shared.budgets.take(request, route.budgets)
    for limits in (route, route.parent):
        if limits is not None and limits.requests_per_minute is not None and limits.token_id is not None:
            rate = await shared.rate_limits.take(limits.token_id, limits.requests_per_minute)
            if request.rate is None or rate.remaining < request.rate.remaining:
                request.rate = rate


async def access_token(request: ProxyRequest, route: Route, ring: Keyring, renewals: Renewals) -> DerivedSecret:
    """Return the access token of a cloud credential. Raises as `Renewals.current` does."""
    request.forwarded = True  # recorded if it fails now: the owner sees that the provider was not reached
    return await renewals.current(route, ring)


async def give_up(
    derived: DerivedSecret, route: Route, ring: Keyring, response: UpstreamResponse, renewals: Renewals
) -> None:
    """Let the next request have another access token: the provider refused this one. Closes the response if it raises.

    The refused request is not sent again, because it may have had an effect.
    """
    try:
        await renewals.refused(route, ring, derived.record)
    except BaseException:
        response.close()
        raise


async def map_urls(
    response_headers: Headers, request: ProxyRequest, route: Route, response: UpstreamResponse
) -> Headers:
    """Return response headers whose URLs lead through the endpoint. Closes the response if it raises."""
    try:
        return await response_urls.map_urls(
            response_headers, route, subdomain=request.subdomain, token_digest=request.digest, upload=request.upload
        )
    except BaseException:
        response.close()
        raise


def resolve_target(
    request: ProxyRequest, route: Route, ring: Keyring, derived: DerivedSecret | None = None
) -> UpstreamTarget:
    """Open the sealed key, or the access token that was bought with it, and put it where the provider expects it.

    Raises `NeedsKeyAgain`, `BadPath`, or `Loop` for a request that has passed this Strake before.
    """
    hops = hop.passed(request.headers) if request.kinds & HOP_MARKER else []
    if route.destination is None:
        raise NeedsKeyAgain  # edited in the database: the key is bound to the original destination
    origin, netloc, base_path = route.destination
    if request.upload is not None:
        return _upload_target(request, request.upload, route, origin, netloc, hops)
    places = route.places
    if places is None:
        raise NeedsKeyAgain
    query = request.query
    if query:
        query = bearer_auth.without_tokens(query, drop_any_key=route.dialect is Dialect.GEMINI)
        query = places.without_own_parameters(query)
    target = build_target(base_path, request.path, query)
    if not query and request.has_empty_query:
        target += b"?"
    secret = _open(route, ring, derived)
    request.forwarded = True
    name, value, lines = places.key_headers(secret) or (b"host", bytearray(netloc), 1)
    filled = places.target(target, secret) if places.parameters else target
    key_header = (name, value)
    own = places.own_names
    return UpstreamTarget(origin, netloc, filled, key_header, secret, route=route, hops=hops, own=own, key_lines=lines)


def _open(route: Route, ring: Keyring, derived: DerivedSecret | None) -> bytearray:
    """Return the key, or the access token that was bought with it. Raises `NeedsKeyAgain`."""
    try:
        if derived is not None:
            return open_key(*derived)
        if route.sealed is not None and route.binding is not None:
            return open_key(route.sealed, route.binding, ring)
    except SealError:
        pass
    raise NeedsKeyAgain


def _upload_target(
    request: ProxyRequest, upload: Upload, route: Route, origin: Origin, netloc: bytes, hops: list[bytes]
) -> UpstreamTarget:
    """Return the target of an upload URL. It needs no key, so the Host header takes the place of the key's header.

    Raises `InvalidToken` if the endpoint's destination has changed since.
    """
    target = response_urls.target_on(upload.url, origin)
    request.drop_headers(lambda header: upload_capability.is_credential(header, upload, route.header_name))
    request.forwarded = True
    host, secret = (b"host", bytearray(netloc)), bytearray(upload.secret.encode())
    return UpstreamTarget(origin, netloc, target, host, secret, route=route, hops=hops)
