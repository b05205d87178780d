"""Statistics for the dashboard: counts and latencies from the rollups, single requests from the records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from django.db.models import QuerySet, Sum
from django.utils import timezone

from credentials.models import Endpoint
from proxy.models import LATENCY_BOUNDS_MS, RefusalCount, RequestRecord, RequestRollup

BUCKETS = len(LATENCY_BOUNDS_MS) + 1
Row = TypeVar("Row", RequestRecord, RefusalCount)
_SEARCH_WINDOWS = (timedelta(hours=1), timedelta(days=1), timedelta(days=7), None)


@dataclass(frozen=True, slots=True)
class Period:
    """A span of time that ends now, divided into equal steps of whole hours."""

    slug: str
    name: str
    steps: int
    hours_per_step: int

    def starts(self, now: datetime) -> list[datetime]:
        """Return the start of each step. The last step contains `now`."""
        this_hour = now.replace(minute=0, second=0, microsecond=0)
        first = this_hour - timedelta(hours=self.hours_per_step * self.steps - 1)
        return [first + timedelta(hours=self.hours_per_step * step) for step in range(self.steps)]


PERIODS = {
    period.slug: period
    for period in (Period("24h", "24 hours", 24, 1), Period("7d", "7 days", 28, 6), Period("30d", "30 days", 30, 24))
}


@dataclass(slots=True)
class Step:
    """The requests of one step. Percentiles are in milliseconds, or None without requests."""

    start: datetime
    good: int = 0
    refused: int = 0
    failed: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    @property
    def total(self) -> int:
        return self.good + self.refused + self.failed

    @property
    def p50(self) -> int | None:
        return percentile(self.histogram, 0.5)

    @property
    def p95(self) -> int | None:
        return percentile(self.histogram, 0.95)

    def add(self, status_class: int, count: int, histogram: list[int]) -> None:
        if status_class >= 5:
            self.failed += count
        elif status_class == 4:
            self.refused += count
        else:
            self.good += count
        self.histogram = [old + new for old, new in zip(self.histogram, histogram, strict=True)]


def steps_of(endpoint: Endpoint, period: Period, now: datetime | None = None) -> tuple[list[Step], Step]:
    """Return the steps of a period for one endpoint, and their sum. One query, for at most 3,600 rows."""
    steps = [Step(start) for start in period.starts(now or timezone.now())]
    total = Step(steps[0].start)
    seconds = period.hours_per_step * 3600
    rollups = RequestRollup.objects.filter(endpoint=endpoint, hour__gte=total.start)
    for hour, status_class, count, histogram in rollups.values_list(
        "hour", "status_class", "count", "latency_histogram"
    ):
        index = min(int((hour - total.start).total_seconds() // seconds), period.steps - 1)
        steps[index].add(status_class, count, histogram)
        total.add(status_class, count, histogram)
    return steps, total


def refused(endpoint: Endpoint, period: Period, now: datetime | None = None) -> int:
    """Return the number of requests that Strake refused in a period. The rollups do not contain them."""
    start = period.starts(now or timezone.now())[0]
    counts = RefusalCount.objects.filter(endpoint=endpoint, minute__gte=start)
    return counts.aggregate(total=Sum("count"))["total"] or 0


def percentile(histogram: list[int], share: float) -> int | None:
    """Return the latency that `share` of the requests did not exceed, interpolated within its bucket."""
    target = sum(histogram) * share
    if not target:
        return None
    lower, seen = 0, 0
    for count, upper in zip(histogram, (*LATENCY_BOUNDS_MS, LATENCY_BOUNDS_MS[-1]), strict=True):
        if count and seen + count >= target:
            return round(lower + (upper - lower) * (target - seen) / count)
        seen += count
        lower = upper
    return lower


def last_day(endpoints: Iterable[Endpoint]) -> dict[UUID, int]:
    """Return the number of requests of each endpoint in the last 24 hours, with one query."""
    since = timezone.now() - timedelta(hours=24)
    rows = (
        RequestRollup.objects.filter(endpoint__in=list(endpoints), hour__gte=since)
        .values_list("endpoint_id")
        .annotate(total=Sum("count"))
    )
    return dict(rows)


def newest(rows: QuerySet[Row], count: int, until: datetime, *, related: Sequence[str], time: str = "at") -> list[Row]:
    """Return the first `count` of `rows`, which must be sorted by `time`, newest first, and end at `until`.

    To select the first few, a database sorts all requests of all endpoints, which takes seconds for a million. So the
    last hour is searched first, and a longer time only if that has too few.
    """
    found: list[int] = []
    for window in _SEARCH_WINDOWS:
        recent = rows if window is None else rows.filter(**{f"{time}__gte": until - window})
        # The database sorts ids faster than whole rows.
        found = list(recent.select_related(None).values_list("pk", flat=True)[:count])
        if len(found) >= count:
            break
    by_pk = rows.model.objects.select_related(*related).in_bulk(found)
    return [by_pk[pk] for pk in found if pk in by_pk]
