"""What the journal knows, for people: counts and latencies from the rollups, single requests from the records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import QuerySet, Sum
from django.utils import timezone

from accounts.audit import Actor
from credentials import services
from credentials.models import Endpoint
from proxy.journal import LATENCY_BOUNDS_MS
from proxy.models import RequestRecord, RequestRollup

CLASSES = len(LATENCY_BOUNDS_MS) + 1
WINDOWS = (timedelta(hours=1), timedelta(days=1), timedelta(days=7), None)


@dataclass(frozen=True, slots=True)
class Period:
    """A span of time that ends now, cut into equal steps of whole hours."""

    slug: str
    name: str
    steps: int
    hours_per_step: int

    def starts(self, now: datetime) -> list[datetime]:
        """When each step begins; the last one is still running."""
        this_hour = now.replace(minute=0, second=0, microsecond=0)
        first = this_hour - timedelta(hours=self.hours_per_step * self.steps - 1)
        return [first + timedelta(hours=self.hours_per_step * step) for step in range(self.steps)]


PERIODS = {
    period.slug: period
    for period in (Period("24h", "24 hours", 24, 1), Period("7d", "7 days", 28, 6), Period("30d", "30 days", 30, 24))
}


@dataclass(slots=True)
class Step:
    """The requests of one step of time. Percentiles are in milliseconds, None without requests."""

    start: datetime
    good: int = 0
    refused: int = 0
    failed: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * CLASSES)

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
        self.histogram = [mine + theirs for mine, theirs in zip(self.histogram, histogram, strict=True)]


def steps_of(endpoint: Endpoint, period: Period, now: datetime | None = None) -> tuple[list[Step], Step]:
    """The steps of a period for one endpoint, and their sum. One query, of at most 30 days of 24 hours of 5 classes."""
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


def percentile(histogram: list[int], share: float) -> int | None:
    """The latency below which `share` of the requests were, interpolated within its class of the histogram."""
    wanted = sum(histogram) * share
    if not wanted:
        return None
    lower, seen = 0, 0
    for count, upper in zip(histogram, (*LATENCY_BOUNDS_MS, LATENCY_BOUNDS_MS[-1]), strict=True):
        if count and seen + count >= wanted:
            return round(lower + (upper - lower) * (wanted - seen) / count)
        seen += count
        lower = upper
    return lower


def last_day(endpoints: Iterable[Endpoint]) -> dict[UUID, int]:
    """The requests of each endpoint in the last 24 hours, in one query."""
    since = timezone.now() - timedelta(hours=24)
    rows = (
        RequestRollup.objects.filter(endpoint__in=list(endpoints), hour__gte=since)
        .values_list("endpoint_id")
        .annotate(total=Sum("count"))
    )
    return dict(rows)


def newest(records: QuerySet[RequestRecord], count: int, until: datetime) -> list[RequestRecord]:
    """The first `count` of `records`, which are sorted by time and end at `until`.

    A database sorts all requests of all endpoints before it takes the first few, which takes seconds with a million of
    them. So it is asked for the last hour first, and for more only where that holds too few.
    """
    found: list[int] = []
    for window in WINDOWS:
        recent = records if window is None else records.filter(at__gte=until - window)
        # Ids alone are sorted faster than whole rows.
        found = list(recent.select_related(None).values_list("pk", flat=True)[:count])
        if len(found) >= count:
            break
    rows = records.model.objects.select_related("endpoint", "token").in_bulk(found)
    return [rows[pk] for pk in found if pk in rows]


def records_for(actor: Actor) -> QuerySet[RequestRecord]:
    """The requests to the endpoints that `actor` may touch, newest first."""
    return (
        RequestRecord.objects.filter(endpoint__in=services.endpoints_for(actor).order_by().values("pk"))
        .select_related("endpoint", "token")
        .order_by("-at", "-id")
    )
