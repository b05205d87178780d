"""Requests a day and a month: what is stored, what this process adds to it, and when a day or month begins."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from time import monotonic
from uuid import uuid4

import pytest
import time_machine
from django.db import DatabaseError
from django.db.models import Q

from accounts.models import User
from credentials.models import BearerToken
from proxy.access import budgets
from proxy.access.budgets import Budgets, _Usage
from proxy.access.route import Budget
from proxy.limit_errors import BudgetExceeded
from proxy.models import RequestRollup
from tests.support import factories, routes

DAY = datetime(2026, 11, 30, tzinfo=UTC)
FIVE_A_DAY = Budget("ctok_a", uuid4(), 5, None)


def usage(*, today: int = 0, earlier: int = 0) -> _Usage:
    made = _Usage("ctok_a", FIVE_A_DAY.endpoint_id, DAY)
    made.today, made.earlier = today, earlier
    return made


def refused(found: _Usage, *, per_day: int | None = None, per_month: int | None = None) -> int:
    """Return the seconds until the next request, or 0 if there is room for one now."""
    try:
        found.check(FIVE_A_DAY._replace(per_day=per_day, per_month=per_month))
    except BudgetExceeded as error:
        return error.retry_after or 0
    return 0


@time_machine.travel(DAY + timedelta(hours=18), tick=False)
def test_refusal_lasts_until_the_day_or_the_month_ends() -> None:
    assert refused(usage(today=4, earlier=9), per_day=5) == 0
    assert refused(usage(today=5), per_day=5) == 6 * 3600
    assert refused(usage(today=1, earlier=9), per_day=5, per_month=10) == 6 * 3600  # November ends too
    with time_machine.travel(DAY - timedelta(days=28), tick=False):
        early = usage(today=5)
        early.day = DAY - timedelta(days=28)
        assert refused(early, per_day=5, per_month=5) == 29 * 86400


def test_next_day_and_next_month_begin_with_nothing() -> None:
    found = usage(today=5, earlier=7)
    found.unstored = 2
    found.day = DAY - timedelta(days=1)
    found.begin_day(DAY)
    assert (found.today, found.earlier) == (0, 12)
    found.begin_day(DAY + timedelta(days=1))
    assert (found.today, found.earlier, found.unstored) == (0, 0, 2)


def test_request_counts_until_the_log_has_stored_it() -> None:
    found = usage(today=3)
    found.unstored = 2  # one of which goes on
    found.end()
    found.forget_stored(monotonic() - 1)
    assert found.unstored == 2
    found.forget_stored(monotonic() + 1)
    assert found.unstored == 1


def test_stored_requests_are_those_of_the_token_and_its_children(alice: User) -> None:
    made, other = factories.make_endpoint(owner=alice), factories.make_endpoint(owner=alice)
    child, _ = factories.make_token(endpoint=made.endpoint, parent=made.token)
    sibling, _ = factories.make_token(endpoint=made.endpoint)

    def store(token: BearerToken, hour: datetime, count: int) -> None:
        rows = RequestRollup.objects.filter(token=token, hour=hour).count()
        RequestRollup.objects.create(
            endpoint=token.endpoint, token=token, hour=hour, status_class=2 + rows, count=count, latency_max_ms=1
        )

    store(made.token, DAY, 1)
    store(made.token, DAY, 2)  # of another status class
    store(child, DAY + timedelta(hours=5), 4)
    for token, hour in ((made.token, DAY - timedelta(hours=1)), (sibling, DAY), (other.token, DAY)):
        store(token, hour, 100)
    ids = {made.token.pk, child.pk}
    assert budgets._stored(ids, {made.endpoint.pk}, Q(hour__gte=DAY)) == {made.token.pk: 7, child.pk: 4}


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be read again during a test on a slow machine."""
    monkeypatch.setattr(budgets, "REFRESH_SECONDS", 3600)


class Log:
    written_until = 0.0


async def test_refused_request_gives_its_place_back(seldom: None) -> None:
    counted = Budgets(Log())
    counted._failed_at = monotonic()  # nothing is read
    for request in range(5):
        await counted.take(request, (FIVE_A_DAY,))
    with pytest.raises(BudgetExceeded):
        await counted.take(5, (FIVE_A_DAY,))
    counted.end(0, is_recorded=True)
    counted.end(1, is_recorded=False)
    counted.end(1, is_recorded=False)
    await counted.take(5, (FIVE_A_DAY,))
    with pytest.raises(BudgetExceeded):
        await counted.take(6, (FIVE_A_DAY,))


async def test_child_uses_its_parents_budget(seldom: None) -> None:
    own = routes.route(
        token_id="ctok_c",
        requests_per_day=5,
        parent_id="ctok_p",
        parent_requests_per_month=2,
        **{f"parent_allowed_{name}": [] for name in ("paths", "networks", "origins")},
    )
    of_parent = routes.route(token_id="ctok_p", requests_per_month=2)
    counted = Budgets(Log())
    counted._failed_at = monotonic()
    await counted.take(0, own.budgets)
    await counted.take(1, of_parent.budgets)
    with pytest.raises(BudgetExceeded):
        await counted.take(2, own.budgets)


async def test_store_that_fails_stops_nobody(seldom: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        raise DatabaseError

    monkeypatch.setattr(budgets, "_stored", fail)
    counted = Budgets(Log())
    for request in range(5):
        await asyncio.wait_for(counted.take(request, (FIVE_A_DAY,)), 5)
    assert len(calls) == 1, "it waits before it asks again"
    with pytest.raises(BudgetExceeded):
        await counted.take(5, (FIVE_A_DAY,))
    await counted.close()
