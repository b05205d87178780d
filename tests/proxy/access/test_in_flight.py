"""The limits on what is in flight, and why a request may not go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from django.test import override_settings

from proxy.access.in_flight import Flight, InFlight
from proxy.access.token_state import TokenState
from proxy.errors import OwnerBusy, StoreUnavailable, TooManyAtOnce
from proxy.limit_errors import TokenBusy
from tests.support import routes

LATER = datetime.now(UTC) + timedelta(hours=1)
PAST = datetime.now(UTC) - timedelta(hours=1)
NO_LISTS: dict[str, Any] = {f"parent_allowed_{name}": [] for name in ("paths", "networks", "origins")}
LIVE = TokenState("ctok_1", b"digest", None, LATER, None, None, b"iv")


def enter(
    in_flight: InFlight,
    *,
    endpoint_id: UUID | None = None,
    owner_id: UUID | None = None,
    max_streams: int | None = None,
    ended: list[Any] | None = None,
    expires_at: datetime | None = None,
    **limits: Any,
) -> Flight:
    """Enter a request with a token of the endpoint, or else with `ctok_1`. `ended` gets an item when it is ended."""
    if owner_id is not None:
        endpoint_id = endpoint_id or uuid4()
    row = {
        "endpoint_id": endpoint_id or uuid4(),
        "owner_id": owner_id or uuid4(),
        "max_streams": max_streams,
        "token_id": "ctok_1" if endpoint_id is None else f"ctok_{endpoint_id}",
        "iv": b"iv",
        "expires_at": expires_at,
    }
    return in_flight.enter(
        routes.route(**row | limits), b"digest", lambda: (ended if ended is not None else []).append(1)
    )


class Store:
    """A look-up with these states, or none that answers."""

    def __init__(self, *states: TokenState, is_down: bool = False) -> None:
        self._states = states
        self._is_down = is_down

    async def states(self, token_ids: list[str]) -> dict[str, TokenState]:
        if self._is_down:
            raise StoreUnavailable
        return {state.token_id: state for state in self._states}


@contextmanager
def limited(**limits: int) -> Iterator[InFlight]:
    with override_settings(**limits):
        yield InFlight()


async def test_token_and_its_parent_are_limited() -> None:
    """A child counts for its parent too, and a refused request for neither."""
    family = {"parent_id": "ctok_p", "parent_concurrent_requests": 2, **NO_LISTS}
    in_flight = InFlight()
    own = [enter(in_flight, token_id="ctok_a", concurrent_requests=1, **family)]
    with pytest.raises(TokenBusy):
        enter(in_flight, token_id="ctok_a", concurrent_requests=1, **family)
    enter(in_flight, token_id="ctok_p", concurrent_requests=2)
    for crowded in ({"token_id": "ctok_b", **family}, {"token_id": "ctok_p", "concurrent_requests": 2}):
        with pytest.raises(TokenBusy):
            enter(in_flight, **crowded)
    in_flight.leave(own[0])
    in_flight._forget_empty()
    enter(in_flight, token_id="ctok_b", **family)
    with pytest.raises(TokenBusy):
        enter(in_flight, token_id="ctok_p", concurrent_requests=2)


async def test_requests_are_counted_by_endpoint() -> None:
    one, other = uuid4(), uuid4()
    with limited(STRAKE_MAX_STREAMS=2) as in_flight:
        flights = [enter(in_flight, endpoint_id=one) for _ in range(2)]
        with pytest.raises(TooManyAtOnce):
            enter(in_flight, endpoint_id=one)
        flights.append(enter(in_flight, endpoint_id=other))
        in_flight.leave(flights.pop(0))
        flights.append(enter(in_flight, endpoint_id=one))
        assert in_flight.counts() == {one: 2, other: 1}
        for flight in flights:
            in_flight.leave(flight)
    assert in_flight.counts() == {}
    await in_flight._check(cast(Any, Store()))
    assert not in_flight._groups
    assert not in_flight._of_endpoint
    assert not in_flight._of_owner


@pytest.mark.parametrize(("installation", "own", "passes"), [(5, 2, 2), (2, 5, 2), (3, 3, 3), (4, None, 4), (9, 1, 1)])
def test_the_lower_limit_applies(installation: int, own: int | None, passes: int) -> None:
    one = uuid4()
    with limited(STRAKE_MAX_STREAMS=installation) as in_flight:
        for _ in range(passes):
            enter(in_flight, endpoint_id=one, max_streams=own)
        with pytest.raises(TooManyAtOnce) as refused:
            enter(in_flight, endpoint_id=one, max_streams=own)
    assert refused.value.retry_after == 1


def test_one_person_has_a_limit_over_all_endpoints() -> None:
    alice, bob = uuid4(), uuid4()
    with limited(STRAKE_MAX_STREAMS_PER_PERSON=3) as in_flight:
        flights = [enter(in_flight, owner_id=alice) for _ in range(3)]
        with pytest.raises(OwnerBusy):
            enter(in_flight, owner_id=alice)
        enter(in_flight, owner_id=bob)
        in_flight.leave(flights[0])
        enter(in_flight, owner_id=alice)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (LIVE, None),
        (LIVE._replace(expires_at=None), None),
        (LIVE._replace(revoked_at=PAST), "invalid_token"),
        (LIVE._replace(expires_at=PAST), "invalid_token"),
        (LIVE._replace(digest=b"rotated"), "invalid_token"),
        (LIVE._replace(suspended_at=PAST), "invalid_token"),
        (LIVE._replace(paused_at=PAST), "endpoint_paused"),
        (LIVE._replace(iv=b"of another key"), "key_replaced"),
        (LIVE._replace(token_id="ctok_2"), "unknown_endpoint"),
    ],
)
async def test_lost_access_ends_a_request(state: TokenState, code: str | None) -> None:
    in_flight, ended = InFlight(), list[Any]()
    flight = enter(in_flight, ended=ended)
    for _ in range(2):
        await in_flight._check(cast(Any, Store(state)))
    assert getattr(flight.ended, "code", None) == code
    assert len(ended) == (code is not None), "once"


async def test_store_that_is_down_ends_all_after_a_grace() -> None:
    down = cast(Any, Store(is_down=True))
    with override_settings(STRAKE_STORE_GRACE=60):
        in_flight = InFlight()
        flight = enter(in_flight)
        codes = []
        for seconds in (0, 58, 2):
            in_flight._confirmed_at -= seconds
            await in_flight._check(down)
            codes.append(getattr(flight.ended, "code", None))
    assert codes == [None, None, "store_unavailable"]


async def test_idle_time_is_no_outage() -> None:
    in_flight = InFlight()
    in_flight._confirmed_at -= 1000
    await in_flight._check(cast(Any, Store(is_down=True)))
    flight = enter(in_flight)
    await in_flight._check(cast(Any, Store(is_down=True)))
    assert flight.ended is None


async def test_expiry_counts_while_the_store_is_down() -> None:
    in_flight = InFlight()
    expired, live = enter(in_flight, expires_at=PAST), InFlight()
    other = enter(live, expires_at=LATER)
    for one in (in_flight, live):
        await one._check(cast(Any, Store(is_down=True)))
    assert expired.ended is not None
    assert other.ended is None


async def test_newest_expiry_counts() -> None:
    in_flight = InFlight()
    flight = enter(in_flight, expires_at=LATER)
    (group,) = in_flight._groups.values()
    await in_flight._check(cast(Any, Store(LIVE._replace(expires_at=None))))
    assert group.expires_at is None
    assert flight.ended is None
