"""The forwarding view: look the endpoint up, check the token and its limits, open the sealed key, forward."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from types import TracebackType
from typing import NamedTuple, Self

from django.conf import settings

from accounts import tokens
from credentials import providers
from credentials.errors import InvalidDestination, SealError
from credentials.providers import SECRET_PLACEHOLDER, Dialect
from credentials.vault import keyring
from credentials.vault.keyring import Keyring
from credentials.vault.sealing import wipe
from proxy.access import bearer_auth, browsers, policy, upload_capability
from proxy.access.auth_throttle import AuthThrottle
from proxy.access.in_flight import InFlight
from proxy.access.rate_limits import Rate, RateLimits
from proxy.access.route import Route
from proxy.access.route_lookup import Lookup
from proxy.access.upload_capability import Upload
from proxy.errors import METHODS, MethodNotAllowed, NeedsKeyAgain, TokenInPath, UnknownEndpoint
from proxy.http import headers, hop, key_places, no_endpoint, response_urls
from proxy.http.key_places import KeyPlaces
from proxy.http.request import ProxyRequest
from proxy.http.response import Response
from proxy.http.target import build_target, check_path, check_query
from proxy.server.asgi import Headers
from proxy.unsealing import open_key
from proxy.upstream.pool import ConnectionPool, Origin, UpstreamResponse, destination
from proxy.upstream.renewals import DerivedSecret, Renewals


class AuthorizedRequest(NamedTuple):
    """A request that may be forwarded. `rate` is None if the token has no rate limit.

    `upload` is set if the request is for an upload URL. Then `token` is the secret in that URL.
    """

    token: str
    route: Route
    ring: Keyring
    rate: Rate | None
    upload: Upload | None = None

    @property
    def needs_token(self) -> bool:
        """Whether the stored secret is not sent itself, but buys an access token that is."""
        return self.route.kind != "static" and self.upload is None


class UpstreamTarget:
    """Where a request is sent, and the provider key. Leaving the context overwrites the memory that holds the key."""

    __slots__ = ("hops", "key_header", "key_lines", "netloc", "origin", "route", "secret", "target")

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
        key_lines: int = 1,
    ) -> None:
        """`target` is a bytearray if it holds the key too. `key_header` and `key_lines` are as for the pool."""
        self.origin = origin
        self.netloc = netloc
        self.target = target
        self.key_header = key_header
        self.key_lines = key_lines
        self.secret = secret
        self.route = route
        self.hops = hops

    async def send(
        self,
        pool: ConnectionPool,
        method: str,
        headers: Headers,
        body: bytes | AsyncIterator[bytes],
        *,
        upgrade: bool = False,
    ) -> UpstreamResponse:
        """Send a request with the provider key. Adds the hop marker to `headers` if a person chose the destination.

        Raises as `ConnectionPool.send` does.
        """
        route = self.route
        if not providers.has_fixed_destination(route.provider):
            hop.mark(headers, self.hops)
        return await pool.send(
            self.origin,
            method,
            self.target,
            headers,
            self.key_header,
            body,
            credential_id=route.credential_id.bytes + route.iv,  # a new key has a new initialisation vector
            owner_id=route.owner_id,
            owner_email=route.owner_email,
            key_lines=self.key_lines,
            upgrade=upgrade,
        )

    def headers_of(self, request: ProxyRequest) -> Headers:
        """Return the request headers for the provider, without the key's and what `ConnectionPool.send` adds last."""
        passed = headers.for_upstream(request.headers, self.netloc, self.key_header[0], names=request.names)
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


async def forward(
    request: ProxyRequest,
    *,
    auth_throttle: AuthThrottle,
    lookup: Lookup,
    rate_limits: RateLimits,
    in_flight: InFlight,
    pool: ConnectionPool,
    renewals: Renewals,
) -> Response:
    """Forward a request with the provider key in place of the client's token.

    Returns when the head of the provider's response has arrived. Raises `proxy.errors.ProxyError` and
    `ClientDisconnected`.
    """
    authorized = await authorize(
        request, auth_throttle=auth_throttle, lookup=lookup, rate_limits=rate_limits, in_flight=in_flight
    )
    body = await request.body(settings.STRAKE_MAX_BODY_MB * 1024 * 1024)
    derived = await access_token(request, authorized, renewals) if authorized.needs_token else None
    with resolve_target(request, authorized, derived) as upstream:
        request_headers = upstream.headers_of(request)
        response = await upstream.send(pool, request.method, request_headers, body)
        response_headers = headers.for_client(
            response.headers, upstream.secret, to_browser=request.is_browser and not request.on_own_host
        )
        reason = headers.reason_for_client(response.reason, upstream.secret)
    if derived is not None and response.status == HTTPStatus.UNAUTHORIZED:
        await give_up(derived, authorized, response, renewals)
    response_headers = await map_urls(response_headers, request, authorized, response)
    if authorized.rate is not None:
        headers.add_missing(response_headers, authorized.rate.headers())
    return Response(response.status, response_headers, response, reason)


async def authorize(
    request: ProxyRequest,
    *,
    auth_throttle: AuthThrottle,
    lookup: Lookup,
    rate_limits: RateLimits,
    in_flight: InFlight,
) -> AuthorizedRequest:
    """Check the path, the token and its limits, and count the request as in flight.

    Raises `proxy.errors.ProxyError`.
    """
    browsers.check(request)
    if not request.subdomain:
        raise UnknownEndpoint if request.names_endpoint else no_endpoint.error()
    if request.method not in METHODS:
        raise MethodNotAllowed
    check_path(request.path)
    check_query(request.query)
    if tokens.contains(request.path):
        raise TokenInPath
    sealed_upload = None
    secret = upload_capability.secret_in(request.path)
    if secret is None:
        token = bearer_auth.find_token(request.headers, request.query)
        request.digest = tokens.digest(token)
        auth_throttle.check(request)
    else:
        sealed_upload = await upload_capability.find(secret)
        token, request.digest = secret, sealed_upload.token_digest
    route = await lookup.find(request.subdomain, request.digest)
    if route is None:
        raise UnknownEndpoint
    request.route = route
    # The keyring as of the look-up: while a long body arrives, the row may be rewrapped and its old master key retired.
    ring = keyring.current()
    address = request.address if route.allowed_networks else None  # parsing it costs more than most checks
    path = request.path or b"/" if sealed_upload is None else None
    policy.check(route, method=request.method, path=path, address=address, origin=request.origin)
    if request.origin and policy.lists_origin(route, request.origin):
        request.is_allowed_origin = True
        # Strake has decided about it. Providers such as Ollama refuse origins that they do not know.
        request.drop_headers(lambda pair: pair[0] == b"origin")
    upload = None if sealed_upload is None else sealed_upload.open(route)
    request.flight = in_flight.enter(route, request.digest, request.end)
    rate = None
    if route.token_id is not None and route.requests_per_minute is not None:
        rate = await rate_limits.take(route.token_id, route.requests_per_minute)
    return AuthorizedRequest(token, route, ring, rate, upload)


async def access_token(request: ProxyRequest, authorized: AuthorizedRequest, renewals: Renewals) -> DerivedSecret:
    """Return the access token of a cloud credential. Raises as `Renewals.current` does."""
    request.forwarded = True  # recorded if it fails now: the owner sees that the provider was not reached
    return await renewals.current(authorized.route, authorized.ring)


async def give_up(
    derived: DerivedSecret, authorized: AuthorizedRequest, response: UpstreamResponse, renewals: Renewals
) -> None:
    """Let the next request have another access token: the provider refused this one. Closes the response if it raises.

    The refused request is not sent again, because it may have had an effect.
    """
    try:
        await renewals.refused(authorized.route, authorized.ring, derived.record)
    except BaseException:
        response.close()
        raise


async def map_urls(
    response_headers: Headers, request: ProxyRequest, authorized: AuthorizedRequest, response: UpstreamResponse
) -> Headers:
    """Return response headers whose URLs lead through the endpoint. Closes the response if it raises."""
    upload = authorized.upload
    if upload is None and not response_urls.contains_urls(response_headers):
        return response_headers
    try:
        return await response_urls.map_urls(
            response_headers, authorized.route, subdomain=request.subdomain, token_digest=request.digest, upload=upload
        )
    except BaseException:
        response.close()
        raise


def resolve_target(
    request: ProxyRequest, authorized: AuthorizedRequest, derived: DerivedSecret | None = None
) -> UpstreamTarget:
    """Open the sealed key, or the access token that was bought with it, and put it where the provider expects it.

    Raises `NeedsKeyAgain`, `BadPath`, or `Loop` for a request that has passed this Strake before.
    """
    route = authorized.route
    hops = hop.passed(request.headers)
    try:
        origin, netloc, base_path = destination(route.destination_url)
    except InvalidDestination:
        raise NeedsKeyAgain from None  # edited in the database: the key is bound to the original destination
    if authorized.upload is not None:
        return _upload_target(request, authorized.upload, route, origin, netloc, hops)
    query = request.query
    if query:
        query = bearer_auth.without_tokens(query, drop_any_key=request.provider_dialect is Dialect.GEMINI)
    before_and_after_key = route.header_template.encode().split(SECRET_PLACEHOLDER.encode())
    places = None
    if route.places != "[]" or len(before_and_after_key) != 2:
        places = _parse_places(route)
        request.drop_headers(places.sets_header)
        query = places.without_own_parameters(query)
    target = build_target(base_path, request.path, query)
    if not query and request.has_empty_query:
        target += b"?"
    try:
        record, binding, ring = derived or (route.sealed, route.binding, authorized.ring)
        secret = open_key(record, binding, ring)
    except SealError:
        raise NeedsKeyAgain from None
    request.forwarded = True
    if places is None:
        # Joined and not replaced: `replace` would need the key as bytes, which cannot be wiped.
        key_header = (route.header_name.encode(), secret.join(before_and_after_key))
        return UpstreamTarget(origin, netloc, target, key_header, secret, route=route, hops=hops)
    name, value, lines = places.key_headers(secret) or (b"host", bytearray(netloc), 1)
    filled = places.target(target, secret)
    return UpstreamTarget(origin, netloc, filled, (name, value), secret, route=route, hops=hops, key_lines=lines)


def _parse_places(route: Route) -> KeyPlaces:
    """Raises `NeedsKeyAgain` for places that no credential is saved with."""
    try:
        return key_places.parse(route.header_name, route.header_template, route.places)
    except InvalidDestination:
        raise NeedsKeyAgain from None


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
