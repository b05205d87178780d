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
from typing import NamedTuple
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

logger = logging.getLogger(__name__)

CHECK_SECONDS = 0.5


class Access(NamedTuple):
    """What gives a request access: a token, as it was when the request started, and one sealed provider key."""

    token_id: str
    digest: bytes
    iv: bytes


class Flight:
    """One request in flight. `ended` is the reason if its access has ended."""

    __slots__ = ("_end", "access", "ended", "endpoint_id", "owner_id")

    def __init__(self, access: Access, endpoint_id: UUID, owner_id: UUID, end: Callable[[], None]) -> None:
        self.access = access
        self.endpoint_id = endpoint_id
        self.owner_id = owner_id
        self.ended: ProxyError | None = None
        self._end = end

    def end(self, reason: ProxyError) -> None:
        """End the request. Does nothing if it is ending."""
        if self.ended is None:
            self.ended = reason
            self._end()


class InFlight:
    """The requests in flight of this process, including streams and WebSocket connections.

    The limits prevent one endpoint or one person from using all connections and memory of a worker. Each process counts
    for itself, so no request waits for a shared store.
    """

    def __init__(self) -> None:
        self._flights: dict[Access, set[Flight]] = {}
        self._of_endpoint: dict[UUID, int] = {}
        self._of_owner: dict[UUID, int] = {}
        self._max_of_endpoint = settings.STRAKE_MAX_STREAMS
        self._max_of_owner = settings.STRAKE_MAX_STREAMS_PER_PERSON
        self._expiries: dict[Access, datetime | None] = {}
        self._confirmed_at = monotonic()

    def enter(self, route: Route, digest: bytes, end: Callable[[], None]) -> Flight:
        """Count a request whose token is valid. Call `leave` when it is over.

        `digest` is the token's, and `end` ends the request. Raises `TooManyAtOnce` or `OwnerBusy`, and then counts
        nothing.
        """
        endpoint_id, owner_id = route.endpoint_id, route.owner_id
        of_endpoint = self._of_endpoint.get(endpoint_id, 0)
        if of_endpoint >= self._max_of_endpoint or (route.max_streams is not None and of_endpoint >= route.max_streams):
            raise TooManyAtOnce(retry_after=1)
        of_owner = self._of_owner.get(owner_id, 0)
        if of_owner >= self._max_of_owner:
            raise OwnerBusy(retry_after=1)
        access = Access(route.token_id or "", digest, route.iv or b"")
        flight = Flight(access, endpoint_id, owner_id, end)
        group = self._flights.get(access)
        if group is None:
            self._flights[access] = {flight}
            self._expiries[access] = route.expires_at
        else:
            group.add(flight)
        self._of_endpoint[endpoint_id] = of_endpoint + 1
        self._of_owner[owner_id] = of_owner + 1
        return flight

    def leave(self, flight: Flight) -> None:
        group = self._flights[flight.access]
        group.remove(flight)
        if not group:
            del self._flights[flight.access], self._expiries[flight.access]
        _decrease(self._of_endpoint, flight.endpoint_id)
        _decrease(self._of_owner, flight.owner_id)

    def counts(self) -> dict[UUID, int]:
        """Return the requests in flight by endpoint. Safe to call from any thread.

        `dict.copy` is one step for other threads. A loop over the dictionary raises if a request ends meanwhile.
        """
        return self._of_endpoint.copy()

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
        accesses = list(self._flights)
        if not accesses:
            self._confirmed_at = monotonic()  # whatever starts from now on is looked up first
            return
        started = monotonic()
        try:
            states = await lookup.states(list({access.token_id for access in accesses}))
        except StoreUnavailable:
            is_over = started - self._confirmed_at >= settings.STRAKE_STORE_GRACE
            if is_over:
                logger.warning("in_flight_ended reason=store_unavailable")
            for access in accesses:
                if is_over:
                    self._end(access, StoreUnavailable(retry_after=1))
                elif _has_passed(self._expiries.get(access)):
                    self._end(access, InvalidToken())
            return
        self._confirmed_at = started
        for access in accesses:
            state = states.get(access.token_id)
            if (reason := _reason(access, state)) is not None:
                self._end(access, reason)
            elif state is not None and access in self._expiries:
                self._expiries[access] = state.expires_at

    def _end(self, access: Access, reason: ProxyError) -> None:
        for flight in list(self._flights.get(access, ())):
            flight.end(reason)


def _reason(access: Access, state: TokenState | None) -> ProxyError | None:
    """Return why a request may not go on, or None if it may."""
    if state is None:
        return UnknownEndpoint()
    if (
        state.revoked_at is not None
        or state.suspended_at is not None
        or state.digest != access.digest
        or _has_passed(state.expires_at)
    ):
        return InvalidToken()
    if state.paused_at is not None:
        return EndpointPaused()
    if state.iv != access.iv:
        return KeyReplaced(retry_after=1)
    return None


def _has_passed(expiry: datetime | None) -> bool:
    return expiry is not None and expiry <= datetime.now(UTC)


def _decrease(counts: dict[UUID, int], key: UUID) -> None:
    count = counts[key] - 1
    if count:
        counts[key] = count
    else:
        del counts[key]
