"""Everything that one process forwards now: the limits on it, and its end when access ends.

A token is checked when a request starts. A stream, an upload or a WebSocket connection goes on for hours after that, so
every half second one query reads the state of the tokens in flight again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import TypeVar
from uuid import UUID

from django.conf import settings

from proxy.access.route import Route
from proxy.access.route_lookup import Lookup
from proxy.access.token_state import TokenState
from proxy.errors import (
    EndpointPaused,
    InvalidToken,
    KeyReplaced,
    OwnerBusy,
    ProxyError,
    StoreUnavailable,
    TooManyAtOnce,
    UnknownEndpoint,
)
from proxy.limit_errors import TokenBusy

logger = logging.getLogger(__name__)

Key = TypeVar("Key")

CHECK_SECONDS = 0.5


# What gives a request access: a token by its id, with its digest when the request started, and one sealed provider key
# by its initialisation vector. A plain tuple: every request makes one.
Access = tuple[str, bytes, bytes]


class _Count:
    """The requests of one endpoint, one person, or one token and its children."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0


class _Group:
    """The requests with the same access. One that is empty stays until the next check."""

    __slots__ = ("access", "expires_at", "flights", "of_endpoint", "of_owner", "of_parent", "of_token")

    def __init__(
        self, access: Access, of_endpoint: _Count, of_owner: _Count, of_token: _Count, of_parent: _Count | None
    ) -> None:
        self.access = access
        self.of_endpoint = of_endpoint
        self.of_owner = of_owner
        self.of_token = of_token
        self.of_parent = of_parent
        self.flights: set[Flight] = set()
        self.expires_at: datetime | None = None


class Flight:
    """One request in flight. `ended` is the reason if its access has ended."""

    __slots__ = ("end_request", "ended", "group")

    def __init__(self, group: _Group, end: Callable[[], None]) -> None:
        self.group = group
        self.ended: ProxyError | None = None
        self.end_request = end

    def end(self, reason: ProxyError) -> None:
        """End the request. Does nothing if it is ending."""
        if self.ended is None:
            self.ended = reason
            self.end_request()


class InFlight:
    """The requests in flight of this process, including streams and WebSocket connections.

    The limits prevent one endpoint or one person from using all connections and memory of a worker. Each process counts
    for itself, so no request waits for a shared store.
    """

    def __init__(self) -> None:
        self._groups: dict[Access, _Group] = {}
        self._of_endpoint: dict[UUID, _Count] = {}
        self._of_owner: dict[UUID, _Count] = {}
        self._of_token: dict[str, _Count] = {}
        self._max_of_endpoint = settings.STRAKE_MAX_STREAMS
        self._max_of_owner = settings.STRAKE_MAX_STREAMS_PER_PERSON
        self._confirmed_at = monotonic()

    def enter(self, route: Route, digest: bytes, end: Callable[[], None]) -> Flight:
        """Count a request whose token is valid. Call `leave` when it is over.

        `digest` is the token's, and `end` ends the request. Raises `TooManyAtOnce`, `OwnerBusy` or `TokenBusy`, and
        then counts nothing.
        """
        access = (route.token_id or "", digest, route.iv)
        group = self._groups.get(access) or self._new_group(access, route)
        of_endpoint, of_owner = group.of_endpoint, group.of_owner
        if of_endpoint.now >= self._max_of_endpoint or (
            route.max_streams is not None and of_endpoint.now >= route.max_streams
        ):
            raise TooManyAtOnce(retry_after=1)
        if of_owner.now >= self._max_of_owner:
            raise OwnerBusy(retry_after=1)
        of_token, of_parent, parent = group.of_token, group.of_parent, route.parent
        if route.concurrent_requests is not None and of_token.now >= route.concurrent_requests:
            raise TokenBusy(retry_after=1)
        if parent is not None and of_parent is not None:
            if parent.concurrent_requests is not None and of_parent.now >= parent.concurrent_requests:
                raise TokenBusy(retry_after=1)
            of_parent.now += 1
        of_token.now += 1
        if not group.flights:
            group.expires_at = route.expires_at
        flight = Flight(group, end)
        group.flights.add(flight)
        of_endpoint.now += 1
        of_owner.now += 1
        return flight

    def leave(self, flight: Flight) -> None:
        group = flight.group
        group.flights.remove(flight)
        group.of_endpoint.now -= 1
        group.of_owner.now -= 1
        group.of_token.now -= 1
        if group.of_parent is not None:
            group.of_parent.now -= 1
        flight.end_request = _nothing  # a cycle with the request would wait for the garbage collector

    def counts(self) -> dict[UUID, int]:
        """Return the requests in flight by endpoint. Safe to call from any thread.

        `dict.copy` is one step for other threads. A loop over the dictionary raises if a request ends meanwhile.
        """
        return {endpoint: count.now for endpoint, count in self._of_endpoint.copy().items() if count.now}

    def _new_group(self, access: Access, route: Route) -> _Group:
        of_endpoint = self._of_endpoint.setdefault(route.endpoint_id, _Count())
        of_owner = self._of_owner.setdefault(route.owner_id, _Count())
        of_token = self._of_token.setdefault(access[0], _Count())
        parent = route.parent
        of_parent = None if parent is None else self._of_token.setdefault(parent.token_id, _Count())
        group = self._groups[access] = _Group(access, of_endpoint, of_owner, of_token, of_parent)
        return group

    def _forget_empty(self) -> None:
        if any(not group.flights for group in self._groups.values()):
            self._groups = {access: group for access, group in self._groups.items() if group.flights}
            _forget_zeros(self._of_endpoint)
            _forget_zeros(self._of_owner)
            _forget_zeros(self._of_token)

    async def watch(self, lookup: Lookup) -> None:
        """End what has lost its access, until cancelled.

        If the store does not answer for `STRAKE_STORE_GRACE` seconds, everything in flight ends, because nothing is
        known about its tokens. An expiry needs no store.
        """
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await self._check(lookup)
            except Exception as error:  # noqa: BLE001  (a watch that ends would leave everything open for ever)
                logger.warning("in_flight_check_failed kind=%s", type(error).__name__)

    async def _check(self, lookup: Lookup) -> None:
        self._forget_empty()
        accesses = list(self._groups)
        if not accesses:
            self._confirmed_at = monotonic()  # whatever starts from now on is looked up first
            return
        started = monotonic()
        try:
            states = await lookup.states(list({token_id for token_id, _, _ in accesses}))
        except StoreUnavailable:
            is_over = started - self._confirmed_at >= settings.STRAKE_STORE_GRACE
            if is_over:
                logger.warning("in_flight_ended reason=store_unavailable")
            for access in accesses:
                if is_over:
                    self._end(access, StoreUnavailable(retry_after=1))
                elif (group := self._groups.get(access)) is not None and _has_passed(group.expires_at):
                    self._end(access, InvalidToken())
            return
        self._confirmed_at = started
        for access in accesses:
            state = states.get(access[0])
            if (reason := _reason(access, state)) is not None:
                self._end(access, reason)
            elif state is not None and (group := self._groups.get(access)) is not None:
                group.expires_at = state.expires_at

    def _end(self, access: Access, reason: ProxyError) -> None:
        if (group := self._groups.get(access)) is not None:
            for flight in list(group.flights):
                flight.end(reason)


def _forget_zeros(counts: dict[Key, _Count]) -> None:
    for key in [key for key, count in counts.items() if not count.now]:
        del counts[key]


def _reason(access: Access, state: TokenState | None) -> ProxyError | None:
    """Return why a request may not go on, or None if it may."""
    _, digest, iv = access
    if state is None:
        return UnknownEndpoint()
    if (
        state.revoked_at is not None
        or state.suspended_at is not None
        or state.digest != digest
        or _has_passed(state.expires_at)
    ):
        return InvalidToken()
    if state.paused_at is not None:
        return EndpointPaused()
    if state.iv != iv:
        return KeyReplaced(retry_after=1)
    return None


def _has_passed(expiry: datetime | None) -> bool:
    return expiry is not None and expiry <= datetime.now(UTC)


def _nothing() -> None:
    """End nothing: the request is over."""
