"""Counts, percentiles, charts and pages of requests."""

from __future__ import annotations

import itertools
import re
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import User
from credentials.models import Endpoint
from proxy.models import OldRollup, RefusalCount, RequestRecord
from proxy.request_log import stats, writer
from proxy.request_log.refusals import NO_TOKEN, Refusal
from proxy.request_log.stats import PERIODS, Step, steps_of
from proxy.request_log.writer import Entry, write, write_refusals
from strake.pages.charts import HEIGHT, WIDTH, draw, top_of
from tests.support import factories
from tests.support.factories import Connected
from tests.support.pages import text


@pytest.fixture(autouse=True)
def _one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep `write` from closing the test's connection: it runs in the thread of the test here."""
    monkeypatch.setattr(writer, "close_old_connections", lambda: None)


@pytest.fixture
def made(alice: User) -> Connected:
    return factories.make_endpoint(owner=alice, label="laptop")


def note(made: Connected, *, status: int = 200, latency_ms: int = 120, at: datetime | None = None) -> None:
    """Write a request as the request log does."""
    moment = at.timestamp() if at else time.time()
    write([Entry(made.endpoint.pk, made.token.pk, status, latency_ms, latency_ms // 2, moment)])


@pytest.mark.parametrize("period", PERIODS.values(), ids=lambda period: period.slug)
def test_steps_cover_the_period_without_gaps(period: stats.Period) -> None:
    now = datetime(2026, 11, 24, 13, 37, tzinfo=UTC)
    starts = period.starts(now)
    assert len(starts) == period.steps
    lengths = {after - before for before, after in itertools.pairwise(starts)}
    assert lengths == {timedelta(hours=period.hours_per_step)}
    assert starts[-1] <= now < starts[-1] + timedelta(hours=period.hours_per_step)


@pytest.mark.parametrize("period", PERIODS.values(), ids=lambda period: period.slug)
def test_every_request_of_the_period_is_counted_once(made: Connected, period: stats.Period) -> None:
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


@pytest.mark.parametrize("period", PERIODS.values(), ids=lambda period: period.slug)
def test_refusals_are_in_the_step_of_their_minute(made: Connected, period: stats.Period) -> None:
    now = timezone.now()
    starts = period.starts(now)
    second = timedelta(seconds=1)
    for index, moment in ((0, starts[0]), (0, starts[1] - second), (1, starts[1]), (period.steps - 1, now)):
        refuse(made, f"code_{index}", 2, moment)
    refuse(made, "earlier", 9, starts[0] - second)
    steps, total = steps_of(made.endpoint, period, now)
    assert {index: step.stopped for index, step in enumerate(steps) if step.stopped} == {
        0: 4,
        1: 2,
        period.steps - 1: 2,
    }
    assert (total.stopped, total.total) == (8, 0)


def test_few_requests_have_their_own_percentiles(made: Connected) -> None:
    """Exact for each step and for the period. A failed request has no latency, however long it took."""
    now = timezone.now()
    for latency in (1001, 1003, 1007, 1009):
        note(made, latency_ms=latency, at=now)
    for latency in (77, 5432):
        note(made, latency_ms=latency, at=now - timedelta(hours=5))
    write([Entry(made.endpoint.pk, made.token.pk, 502, 30_000, None, now.timestamp(), "upstream_connect_timeout")])
    steps, total = steps_of(made.endpoint, PERIODS["24h"], now)
    assert (steps[-1].p50, steps[-1].p95) == (1003, 1009)
    assert (steps[-6].p50, steps[-6].p95) == (77, 5432)
    assert (total.p50, total.p95, total.failed) == (1003, 5432, 1)


def test_many_requests_have_percentiles_near_theirs(made: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "MAX_EXACT", 99)
    latencies = [int(1.09**number) for number in range(100)]  # up to 5,057 ms
    for latency in latencies:
        note(made, latency_ms=latency)
    _, total = steps_of(made.endpoint, PERIODS["24h"])
    assert total.p50 == pytest.approx(latencies[49], rel=0.032)
    assert total.p95 == pytest.approx(latencies[94], rel=0.032)


def test_percentile_is_not_above_the_maximum(made: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "MAX_EXACT", 0)
    for _ in range(3):
        note(made, latency_ms=992)  # of the bucket from 992 to 1,023
    _, total = steps_of(made.endpoint, PERIODS["24h"])
    assert (total.p50, total.p95) == (992, 992)


def test_pruned_records_leave_the_buckets(made: Connected) -> None:
    now = timezone.now()
    note(made, latency_ms=1001, at=now)
    note(made, latency_ms=1001, at=now - timedelta(hours=3))
    RequestRecord.objects.filter(at__lt=now - timedelta(hours=1)).delete()
    steps, total = steps_of(made.endpoint, PERIODS["24h"], now)
    assert (steps[-1].p50, steps[-4].p50) == (1001, 1001)  # the second is the longest of its bucket
    assert total.total == 2


def test_totals_of_the_version_before_are_shown(made: Connected) -> None:
    """Its servers write on after the upgrade, until they are restarted."""
    note(made, latency_ms=40)
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    counts = [0] * (len(OldRollup.BOUNDS_MS) + 1)
    counts[4], counts[-1] = 3, 1
    OldRollup.objects.create(endpoint=made.endpoint, hour=hour, status_class=2, count=4, latency_histogram=counts)
    OldRollup.objects.create(endpoint=made.endpoint, hour=hour, status_class=5, count=1, latency_histogram=[])
    _, total = steps_of(made.endpoint, PERIODS["24h"])
    assert (total.good, total.failed, total.p50, total.p95) == (5, 1, 175, 300_000)
    assert stats.hours_of_last_day([made.endpoint]) == {made.endpoint.pk: [*[0] * 23, 6]}


def test_newest_record_is_found(made: Connected, bob: User) -> None:
    assert stats.newest_record_at() is None
    now = timezone.now()
    note(factories.make_endpoint(owner=bob), at=now - timedelta(days=2))
    note(made, at=now - timedelta(hours=30))
    note(made, at=now - timedelta(hours=30, seconds=1))
    assert stats.newest_record_at() == now - timedelta(hours=30)


def test_bars_fit_the_chart_and_match_their_counts() -> None:
    steps = [Step(timezone.now(), good=good, refused=3, failed=1, stopped=2) for good in (0, 6, 90)]
    chart = draw(steps)
    assert chart.max_requests == 100
    for bar, step in zip(chart.bars, steps, strict=True):
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH
        assert sum(height for _, _, height in bar.parts) == pytest.approx((step.total + 2) / 100 * HEIGHT, abs=0.05)
        assert min(y for _, y, _ in bar.parts) >= 0


@pytest.mark.parametrize(("value", "top"), [(0, 1), (1, 1), (3, 4), (9, 10), (11, 12), (81, 100), (4001, 5000)])
def test_axes_end_at_round_numbers(value: int, top: int) -> None:
    assert top_of(value) == top


def test_axes_are_mostly_used_and_have_a_whole_middle() -> None:
    for value in range(2, 20_000):
        top = top_of(value)
        assert value <= top < 1.5 * value + 1, value
        assert top % 2 == 0, value


def test_endpoint_page_shows_counts_and_their_table(client: Client, alice: User, made: Connected) -> None:
    client.force_login(alice)
    for _ in range(3):
        note(made)
    note(made, status=429)
    page = client.get(f"/endpoints/{made.endpoint.subdomain}/")
    assert "Forwarded 4 Answered with 4xx 1 Failed (5xx) 0" in text(page)
    assert "Show the numbers" in text(page)
    assert page.content.count(b'<th scope="row" class="nowrap">') == 24


def test_activity_pages_list_every_request_once(client: Client, alice: User, made: Connected) -> None:
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
        seen += [part.partition(" ms")[0] for part in page.split('<td class="num nowrap second-line end-of-line">')[1:]]
        url = "/activity/" + page.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
    assert len(seen) == len(set(seen)) == 120
    assert url == "/activity/"


@pytest.mark.parametrize("before", ["nonsense", "2026-99-99T00:00:00+00:00_1", "2026-11-24T00:00:00_1", "_", "x_y"])
def test_invalid_page_position_shows_the_newest(client: Client, alice: User, made: Connected, before: str) -> None:
    client.force_login(alice)
    note(made)
    assert "laptop" in text(client.get("/activity/", {"before": before}))


def test_activity_is_filtered_by_outcome(client: Client, alice: User, made: Connected) -> None:
    client.force_login(alice)
    for status in (200, 404, 502):
        note(made, status=status, latency_ms=status)
    for outcome, latency in (("good", "200 ms"), ("refused", "404 ms"), ("failed", "502 ms")):
        page = text(client.get("/activity/", {"outcome": outcome, "endpoint": made.endpoint.subdomain}))
        assert [known for known in ("200 ms", "404 ms", "502 ms") if known in page] == [latency]


def test_last_day_counts_only_these_endpoints(made: Connected, bob: User) -> None:
    note(made)
    note(factories.make_endpoint(owner=bob))
    note(made, at=timezone.now() - timedelta(days=3))
    assert stats.last_day(Endpoint.objects.filter(pk=made.endpoint.pk)) == {UUID(str(made.endpoint.pk)): 1}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_newest_requests_are_found_at_any_age(made: Connected, count: int) -> None:
    now = timezone.now()
    for hours in (0.5, 5, 70, 300, 700):
        note(made, at=now - timedelta(hours=hours), latency_ms=int(hours * 10))
    found = stats.newest(RequestRecord.objects.order_by("-at", "-id"), count, now)
    assert [record.latency_ms for record in found] == [5, 50, 700, 3000, 7000][:count]


# --- Refusals among the requests -----------------------------------------------------------------------------------


def refuse(made: Connected, code: str, times: int, at: datetime, token_id: str | None = None) -> None:
    """Write a count of refusals as the request log does."""
    second = at.timestamp()
    token = made.token.pk if token_id is None else token_id
    write_refusals([Refusal(made.endpoint.pk, token, int(second // 60), code, times, second)])


def test_refusals_are_one_line_with_their_reason(client: Client, alice: User, made: Connected) -> None:
    client.force_login(alice)
    now = timezone.now()
    note(made, at=now - timedelta(minutes=9))
    refuse(made, "rate_limited", 1400, now - timedelta(minutes=5))
    refuse(made, "a_code_of_a_later_version", 2, now - timedelta(minutes=4), token_id=NO_TOKEN)
    RequestRecord.objects.create(
        endpoint=made.endpoint, token=made.token, status=502, error="upstream_unreachable", latency_ms=1, at=now
    )
    for path in (
        "/activity/",
        f"/endpoints/{made.endpoint.subdomain}/",
        f"/endpoints/{made.endpoint.subdomain}/requests/",
    ):
        page = text(client.get(path))
        unreachable, newer, limited = (
            page.index("502 The provider was not reached"),
            page.index("500 A code of a later version 2 times"),
            page.index("429 Too many requests a minute 1,400 times"),
        )
        assert unreachable < newer < limited
        assert "several tokens" in page
    assert 'href="/docs/errors/#rate_limited"' in client.get("/activity/").content.decode()


def test_refusals_are_counted_apart_from_requests(client: Client, alice: User, made: Connected) -> None:
    client.force_login(alice)
    note(made)
    now = timezone.now()
    refuse(made, "rate_limited", 1400, now)
    refuse(made, "invalid_token", 30, now - timedelta(hours=20))
    refuse(made, "invalid_token", 500, now - timedelta(days=3))
    page = text(client.get(f"/endpoints/{made.endpoint.subdomain}/"))
    assert "Forwarded 1 Answered with 4xx 0 Failed (5xx) 0 Refused by Strake 1,430" in page
    page = text(client.get(f"/endpoints/{made.endpoint.subdomain}/?period=7d"))
    assert "Refused by Strake 1,930" in page


def test_refusals_are_filtered_by_outcome_and_owner(client: Client, alice: User, bob: User, made: Connected) -> None:
    now = timezone.now()
    refuse(made, "rate_limited", 21, now)
    refuse(made, "needs_key_again", 22, now)
    refuse(factories.make_endpoint(owner=bob), "rate_limited", 23, now)
    client.force_login(alice)
    for outcome, seen in (("", {21, 22}), ("good", set()), ("refused", {21}), ("failed", {22})):
        page = text(client.get("/activity/", {"outcome": outcome, "endpoint": made.endpoint.subdomain}))
        assert {times for times in (21, 22, 23) if f"{times} times" in page} == seen, outcome
    assert "23 times" not in text(client.get("/activity/"))


def test_pages_with_refusals_list_every_line_once(client: Client, alice: User, made: Connected) -> None:
    """Records and refusals of the same instant, with a page's end between them."""
    client.force_login(alice)
    at = timezone.now() - timedelta(hours=1)
    RequestRecord.objects.bulk_create(
        RequestRecord(endpoint=made.endpoint, token=made.token, status=200, latency_ms=1000 + number, at=at)
        for number in range(60)
    )
    RefusalCount.objects.bulk_create(
        RefusalCount(
            endpoint=made.endpoint,
            token_id=f"ctok_{number}",
            minute=at.replace(second=0, microsecond=0),
            code="rate_limited",
            count=1000 + number,
            last_at=at if number < 50 else at - timedelta(milliseconds=number),
        )
        for number in range(60)
    )
    seen: list[str] = []
    url = "/activity/"
    for _ in range(3):
        page = client.get(url).content.decode()
        seen += re.findall(r"[> ](1,\d{3} (?:ms|times))\s*<", page)
        url = "/activity/" + page.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
    assert sorted(seen) == sorted(f"1,{number:03} {unit}" for number in range(60) for unit in ("ms", "times"))
    assert url == "/activity/"
