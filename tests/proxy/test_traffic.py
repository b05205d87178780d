"""Counts, percentiles, charts and pages of requests."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.test import Client
from django.utils import timezone

from accounts.audit import Actor
from accounts.models import User
from credentials.models import Endpoint
from proxy import journal, traffic
from proxy.charts import HEIGHT, WIDTH, draw, nice
from proxy.journal import LATENCY_BOUNDS_MS, Entry
from proxy.models import RequestRecord
from proxy.traffic import PERIODS, Step, percentile, steps_of
from tests import factories
from tests.factories import Connected
from tests.pages import text


@pytest.fixture(autouse=True)
def _one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal writes in a thread with a connection of its own, which it closes; here it is the test's."""
    monkeypatch.setattr(journal, "close_old_connections", lambda: None)


@pytest.fixture
def made(alice: User) -> Connected:
    return factories.make_endpoint(owner=alice, label="laptop")


def note(made: Connected, *, status: int = 200, latency_ms: int = 120, at: datetime | None = None) -> None:
    """A request as the proxy's own journal writes it."""
    moment = at.timestamp() if at else time.time()
    journal.write([Entry(made.endpoint.pk, made.token.pk, status, latency_ms, latency_ms // 2, moment)])


@pytest.mark.parametrize("period", PERIODS.values(), ids=lambda period: period.slug)
def test_steps_cover_the_period_without_gaps_and_end_now(period: traffic.Period) -> None:
    now = datetime(2026, 11, 24, 13, 37, tzinfo=UTC)
    starts = period.starts(now)
    assert len(starts) == period.steps
    lengths = {after - before for before, after in itertools.pairwise(starts)}
    assert lengths == {timedelta(hours=period.hours_per_step)}
    assert starts[-1] <= now < starts[-1] + timedelta(hours=period.hours_per_step)


@pytest.mark.parametrize("period", PERIODS.values(), ids=lambda period: period.slug)
def test_every_request_of_the_period_is_counted_once(made: Connected, period: traffic.Period) -> None:
    now = timezone.now()
    hours = period.steps * period.hours_per_step
    for age in (0, 1, hours // 2, hours - 1):
        note(made, at=now - timedelta(hours=age))
    note(made, status=404)
    note(made, status=502)
    note(made, at=now - timedelta(hours=hours + period.hours_per_step))
    steps, total = steps_of(made.endpoint, period, now)
    assert (total.good, total.refused, total.failed, total.total) == (4, 1, 1, 6)
    assert sum(step.total for step in steps) == 6


def test_percentiles_lie_in_the_class_of_the_request_they_are_of() -> None:
    assert percentile([0] * traffic.CLASSES, 0.5) is None
    for index, upper in enumerate(LATENCY_BOUNDS_MS):
        histogram = [0] * traffic.CLASSES
        histogram[index] = 100
        found = percentile(histogram, 0.95)
        lower = LATENCY_BOUNDS_MS[index - 1] if index else 0
        assert found is not None
        assert lower <= found <= upper
    histogram = [90, *[0] * (traffic.CLASSES - 2), 10]
    assert (percentile(histogram, 0.5) or 0) < LATENCY_BOUNDS_MS[0]
    assert percentile(histogram, 0.95) == LATENCY_BOUNDS_MS[-1]


def test_bars_stay_inside_the_chart_and_stack_to_their_count() -> None:
    steps = [Step(timezone.now(), good=good, refused=3, failed=1) for good in (0, 6, 90)]
    chart = draw(steps)
    assert chart.most_requests == 100
    for bar, step in zip(chart.bars, steps, strict=True):
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH
        assert sum(height for _, _, height in bar.parts) == pytest.approx(step.total / 100 * HEIGHT, abs=0.05)
        assert min(y for _, y, _ in bar.parts) >= 0


@pytest.mark.parametrize(("value", "top"), [(0, 1), (1, 1), (3, 4), (9, 10), (11, 20), (81, 100), (4001, 5000)])
def test_axes_end_at_numbers_that_read_well(value: int, top: int) -> None:
    assert nice(value) == top


def test_the_endpoints_page_shows_counts_and_the_table_behind_the_charts(client: Client, alice: User, made: Connected):
    client.force_login(alice)
    for _ in range(3):
        note(made)
    note(made, status=429)
    page = client.get(f"/endpoints/{made.endpoint.subdomain}/")
    assert "Requests 4 Refused (4xx) 1 Failed (5xx) 0" in text(page)
    assert "Show the numbers" in text(page)
    assert page.content.count(b'<th scope="row" class="nowrap">') == 24


def test_activity_is_paged_by_time_without_losing_or_repeating_a_request(
    client: Client, alice: User, made: Connected
) -> None:
    client.force_login(alice)
    # Many at the same instant: a page may not end between them and forget some.
    at = timezone.now() - timedelta(hours=1)
    RequestRecord.objects.bulk_create(
        RequestRecord(endpoint=made.endpoint, token=made.token, status=200, latency_ms=1000 + number, at=at)
        for number in range(120)
    )
    seen: list[str] = []
    url = "/activity/"
    for _ in range(3):
        page = client.get(url).content.decode()
        seen += [part.partition(" ms")[0] for part in page.split('<td class="num nowrap wide">')[1:]]
        url = "/activity/" + page.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
    assert len(seen) == len(set(seen)) == 120
    assert url == "/activity/"


@pytest.mark.parametrize("before", ["nonsense", "2026-99-99T00:00:00+00:00_1", "2026-11-24T00:00:00_1", "_", "x_y"])
def test_a_mangled_place_in_the_list_shows_the_newest(
    client: Client, alice: User, made: Connected, before: str
) -> None:
    client.force_login(alice)
    note(made)
    assert "laptop" in text(client.get("/activity/", {"before": before}))


def test_outcomes_are_filtered(client: Client, alice: User, made: Connected) -> None:
    client.force_login(alice)
    for status in (200, 404, 502):
        note(made, status=status, latency_ms=status)
    for outcome, latency in (("good", "200 ms"), ("refused", "404 ms"), ("failed", "502 ms")):
        page = text(client.get("/activity/", {"outcome": outcome, "endpoint": made.endpoint.subdomain}))
        assert [known for known in ("200 ms", "404 ms", "502 ms") if known in page] == [latency]


def test_counts_of_the_last_day_are_ones_own(made: Connected, bob: User) -> None:
    his = factories.make_endpoint(owner=bob)
    note(made)
    note(his)
    note(made, at=timezone.now() - timedelta(days=3))
    assert traffic.last_day(Endpoint.objects.filter(pk=made.endpoint.pk)) == {UUID(str(made.endpoint.pk)): 1}
    assert [record.endpoint_id for record in traffic.records_for(Actor(bob))] == [his.endpoint.pk]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_the_newest_requests_are_found_however_old_they_are(made: Connected, alice: User, count: int) -> None:
    now = timezone.now()
    for hours in (0.5, 5, 70, 300, 700):
        note(made, at=now - timedelta(hours=hours), latency_ms=int(hours * 10))
    found = traffic.newest(traffic.records_for(Actor(alice)), count, now)
    assert [record.latency_ms for record in found] == [5, 50, 700, 3000, 7000][:count]
