"""Keeps tokens that are refused again and again away from the database.

Two limits act before the look-up, in the memory of each process:

* **By token.** After `MAX_REFUSALS` look-ups in `TOKEN_WINDOW_SECONDS` that led to a refusal, a token is refused
  without one for `BLOCK_SECONDS`. Then its next request is looked up again. So a revoked token costs about two look-ups
  a second, however often it is sent, and one that becomes valid again is accepted `BLOCK_SECONDS` later at most.
* **By client network,** for tokens that are made up and sent once each. From `MAX_INVALID_TOKENS` in a minute on, a
  network has `MAX_NEW_TOKENS` look-ups a second for tokens that this process has not seen lately. Beyond that, a token
  is refused when it is first seen, and looked up when it comes again. So a valid token from the same network is refused
  at most once, with the advice to come again after a second.

Refusals that depend on the path or on what else is in flight are not throttled: another request with the token may be
accepted, and whoever holds such a token can cause look-ups anyway.

Loopback, as a client's address, is a reverse proxy that is missing from STRAKE_TRUSTED_PROXIES. It stands for many
clients, so it has no limit as a network. The limit by token holds there too. A made-up token then costs one indexed
read and writes nothing. Nobody can guess 256 random bits.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic
from typing import Protocol
from uuid import UUID

from accounts.addresses import IPAddress
from accounts.sign_in.throttle import networks
from proxy.access.rate_limits import rate_limited
from proxy.access.route import Route
from proxy.errors import (
    EndpointPaused,
    InvalidToken,
    NeedsKeyAgain,
    NetworkNotAllowed,
    ProxyError,
    RateLimited,
    TooManyRefusals,
    TooManyWrongTokens,
    UnknownEndpoint,
)

logger = logging.getLogger(__name__)

MAX_REFUSALS = 10
TOKEN_WINDOW_SECONDS = 10
BLOCK_SECONDS = 1.0
MAX_TOKENS = 10_000

MAX_INVALID_TOKENS = 120
WINDOW_SECONDS = 60
MAX_NETWORKS = 10_000
MAX_NEW_TOKENS = 20
MAX_SEEN = 10_000  # twice. At 5,000 new tokens a second, one that comes again after a second is still known.

# Errors that every request with the token gets: until its row changes, from the same address, or for a known time.
_LASTING = (InvalidToken, UnknownEndpoint, EndpointPaused, NeedsKeyAgain, NetworkNotAllowed, RateLimited)
_Key = tuple[str, bytes]  # subdomain, digest


class Request(Protocol):
    """What the throttle reads of a `ProxyRequest`. `address` is parsed at every access."""

    subdomain: str
    digest: bytes
    route: Route | None
    refused_token: tuple[UUID, str] | None

    @property
    def address(self) -> IPAddress | None: ...


@dataclass(slots=True)
class _Token:
    """A token that was refused. `address` is "" if it is refused from everywhere. Times are `monotonic` readings."""

    start: float
    count: int = 0
    blocked_until: float = 0.0
    address: str = ""
    limit: int | None = None  # of requests per minute, if that is why it was refused
    known: tuple[UUID, str] | None = None


@dataclass(slots=True)
class _Network:
    """A client network that has sent invalid tokens in the minute from `start` on."""

    start: float
    count: int = 0
    second: int = 0
    new_tokens: int = 0  # looked up in that second


class AuthThrottle:
    """Counts refusals by token, and invalid tokens by IPv4 address or IPv6 /64, in bounded memory."""

    def __init__(self) -> None:
        self._tokens: OrderedDict[_Key, _Token] = OrderedDict()
        self._networks: dict[str, _Network] = {}
        self._noisy_until = 0.0  # no network is over its limit after that
        self._seen: set[bytes] = set()
        self._seen_before: set[bytes] = set()

    def check(self, request: Request) -> None:
        """Refuse a request whose token has been refused too often, before its look-up.

        Raises `TooManyRefusals`, `RateLimited` if that was the reason, or `TooManyWrongTokens`. Sets
        `request.refused_token` if the token exists.
        """
        if self._tokens:
            token = self._tokens.get((request.subdomain, request.digest))
            if token is not None and token.blocked_until:
                self._check_token(request, token)
        if self._noisy_until:
            self._check_network(request)

    def refused(self, request: Request, error: ProxyError) -> ProxyError:
        """Count a refusal. Returns the error to respond with: `error`, or `TooManyWrongTokens` in its place."""
        if not isinstance(error, _LASTING) or request.refused_token is not None:
            return error
        now = monotonic()
        too_many = self._count_network(request, now) if isinstance(error, InvalidToken | UnknownEndpoint) else None
        if request.digest:
            self._count_token(request, error, now, at_once=too_many is not None)
        return too_many or error

    # --- By token --------------------------------------------------------------------------------------------------

    def _check_token(self, request: Request, token: _Token) -> None:
        wait = token.blocked_until - monotonic()
        if wait <= 0 or (token.address and token.address != str(request.address)):
            return
        self._tokens.move_to_end((request.subdomain, request.digest))
        request.refused_token = token.known
        if token.limit is not None:
            raise rate_limited(token.limit, wait)
        raise TooManyRefusals(retry_after=1)

    def _count_token(self, request: Request, error: ProxyError, now: float, *, at_once: bool) -> None:
        key = (request.subdomain, request.digest)
        token = self._tokens.get(key)
        if token is None:
            if len(self._tokens) >= MAX_TOKENS:
                self._tokens.popitem(last=False)  # it only costs look-ups again
            token = self._tokens[key] = _Token(now)
        self._tokens.move_to_end(key)
        if now - token.start >= TOKEN_WINDOW_SECONDS:
            token.start, token.count = now, 0
        token.count += 1
        if token.count < MAX_REFUSALS and not at_once:
            return
        route = request.route
        token.known = (route.endpoint_id, route.token_id) if route is not None and route.token_id is not None else None
        token.address = str(request.address) if isinstance(error, NetworkNotAllowed) else ""
        token.limit = error.limit if isinstance(error, RateLimited) else None
        # A rate limit accepts the next request after `wait`, often sooner than a second.
        token.blocked_until = now + (
            min(error.wait, BLOCK_SECONDS) if isinstance(error, RateLimited) else BLOCK_SECONDS
        )

    # --- By network ------------------------------------------------------------------------------------------------

    def _check_network(self, request: Request) -> None:
        now = monotonic()
        if now >= self._noisy_until:
            self._noisy_until = 0.0
            self._seen, self._seen_before = set(), set()
            return
        network = self._networks.get(_network_of(request.address))
        if network is None or network.count < MAX_INVALID_TOKENS or now - network.start >= WINDOW_SECONDS:
            return
        if self._has_seen(request.digest):
            return
        if int(now) != network.second:
            network.second, network.new_tokens = int(now), 0
        network.new_tokens += 1
        if network.new_tokens > MAX_NEW_TOKENS:
            raise TooManyWrongTokens(retry_after=1)

    def _has_seen(self, digest: bytes) -> bool:
        """Remember a digest. Returns whether it was remembered."""
        known = digest in self._seen or digest in self._seen_before
        if len(self._seen) >= MAX_SEEN:
            self._seen, self._seen_before = set(), self._seen
        self._seen.add(digest)
        return known

    def _count_network(self, request: Request, now: float) -> TooManyWrongTokens | None:
        address = request.address
        if address is None or address.is_loopback:
            return None
        name = _network_of(address)
        network = self._networks.get(name)
        if network is None or now - network.start >= WINDOW_SECONDS:
            if network is None and len(self._networks) >= MAX_NETWORKS:
                self._networks.clear()  # losing counts is harmless, unbounded memory is not
            network = self._networks[name] = _Network(now)
        network.count += 1
        if network.count < MAX_INVALID_TOKENS:
            return None
        end = network.start + WINDOW_SECONDS
        self._noisy_until = max(self._noisy_until, end)
        if network.count == MAX_INVALID_TOKENS:
            return None
        if network.count == MAX_INVALID_TOKENS + 1:
            logger.warning("wrong_tokens network=%s more_than=%d seconds=%d", name, MAX_INVALID_TOKENS, WINDOW_SECONDS)
        return TooManyWrongTokens(retry_after=max(1, round(end - now)))


def _network_of(address: IPAddress | None) -> str:
    return networks(str(address))[0]
