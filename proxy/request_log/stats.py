"""Statistics for the dashboard: counts and latencies from the rollups, single requests from the records."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import (
    Aggregate,
    Case,
    DateTimeField,
    Expression,
    ExpressionWrapper,
    IntegerField,
    Max,
    OuterRef,
    QuerySet,
    Subquery,
    Sum,
    TextField,
    Value,
    When,
)
from django.db.models.functions import Coalesce
from django.utils import timezone

from credentials.models import Endpoint
from proxy.models import OldRollup, RefusalCount, RequestRecord, RequestRollup
from proxy.request_log.histogram import percentile

# Up to this many latencies of a period are read one by one. More would take longer than the rest of the page.
MAX_EXACT = 2_000
Row = TypeVar("Row", RequestRecord, RefusalCount)
HOURS = 24
_STOPPED = 0  # in the place of a status class
_WITHOUT_BRACES = str.maketrans("", "", '{}" ')
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
    """The requests of one step. Percentiles are in milliseconds, or None if none was answered.

    `latencies` maps milliseconds to the number of answered requests that took so long.
    """

    start: datetime
    good: int = 0
    refused: int = 0
    failed: int = 0
    stopped: int = 0
    latencies: Counter[int] = field(default_factory=Counter)
    latency_max: int = 0

    @property
    def total(self) -> int:
        return self.good + self.refused + self.failed

    @property
    def p50(self) -> int | None:
        return self._percentile(0.5)

    @property
    def p95(self) -> int | None:
        return self._percentile(0.95)

    def add(self, status_class: int, count: int, latency_max: int) -> None:
        if status_class == _STOPPED:
            self.stopped += count
        elif status_class >= 5:
            self.failed += count
        elif status_class == 4:
            self.refused += count
        else:
            self.good += count
        self.latency_max = max(self.latency_max, latency_max)

    def _percentile(self, share: float) -> int | None:
        found = percentile(self.latencies, share)
        return None if found is None else min(found, self.latency_max)  # the middle of a bucket may be above it


def steps_of(endpoint: Endpoint, period: Period, now: datetime | None = None) -> tuple[list[Step], Step]:
    """Return the steps of a period for one endpoint, and their sum."""
    steps = [Step(start) for start in period.starts(now or timezone.now())]
    total = Step(steps[0].start)
    histograms: defaultdict[int, list[str]] = defaultdict(list)
    for hour, status_class, count, joined, latency_max in _rollups(endpoint, [step.start for step in steps]):
        index = _index(hour, total.start, period)
        for step in (steps[index], total):
            step.add(status_class, count, latency_max)
        if joined:
            histograms[index].append(joined)
    for index, texts in histograms.items():
        steps[index].latencies = _sum_of(texts)
        total.latencies.update(steps[index].latencies)
    if total.latencies.total() <= MAX_EXACT:
        _read_exact_latencies(endpoint, period, steps, total)
    return steps, total


def _rollups(endpoint: Endpoint, starts: Sequence[datetime]) -> Iterable[Any]:
    """Return hour, status class, count, histograms and longest latency of the requests in each hour.

    The refusals come as a row for each step, whose hour is the start of the step.
    """
    since = starts[0]
    columns = ("hour", "status_class", "total", "histograms", "longest")
    by_hour = {"total": Sum("count"), "histograms": _Joined("latency_histogram")}
    rollups = (
        RequestRollup.objects.filter(endpoint=endpoint, hour__gte=since)
        .values("hour", "status_class")
        .annotate(**by_hour, longest=Max("latency_max_ms"))
    )
    old = (
        OldRollup.objects.filter(endpoint=endpoint, hour__gte=since)
        .values("hour", "status_class")
        .annotate(**by_hour, longest=Value(OldRollup.BOUNDS_MS[-1]))  # they do not know it
    )
    stopped = (
        RefusalCount.objects.filter(endpoint=endpoint, minute__gte=since)
        .values(step=_step_of("minute", starts))
        .annotate(
            status=Value(_STOPPED),
            total=Sum("count"),
            histograms=Value(""),
            longest=Value(0),
        )
    )
    return rollups.values_list(*columns).union(
        old.values_list(*columns),
        stopped.values_list("step", "status", "total", "histograms", "longest"),
        all=True,
    )


def _step_of(column: str, starts: Sequence[datetime]) -> Case:
    """An expression for the start of the step that a time is in. Databases differ in how they truncate times."""
    earlier = [When(**{f"{column}__lt": after}, then=Value(start)) for start, after in pairwise(starts)]
    return Case(*earlier, default=Value(starts[-1]), output_field=DateTimeField())


class _Joined(Aggregate):
    """The texts of a JSON column, with commas between them."""

    function = "GROUP_CONCAT"
    name = "Joined"
    output_field = TextField()

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "STRING_AGG(%(expressions)s::text, ',')"
        return self.as_sql(compiler, connection, template=template, **context)


def _sum_of(histograms: Sequence[str]) -> Counter[int]:
    """The counts by latency of some histograms, in texts of JSON with commas between those of one text.

    Histograms are flat objects of small numbers, so the same members occur many times. To count equal members takes a
    third of the time that a JSON parser and a sum take. An old histogram is a list with wide buckets, so their middles
    may be far from the latencies.
    """
    counts: Counter[int] = Counter()
    objects = ",".join(text for text in histograms if text[0] == "{")
    for member, times in Counter(objects.translate(_WITHOUT_BRACES).split(",")).items():
        if member:  # else an empty object
            latency, _, count = member.partition(":")
            counts[int(latency)] += int(count) * times
    bounds = (0, *OldRollup.BOUNDS_MS, OldRollup.BOUNDS_MS[-1])
    for histogram in json.loads(f"[{','.join(text for text in histograms if text[0] == '[')}]"):
        for index, count in enumerate(histogram):
            if count:
                counts[(bounds[index] + bounds[index + 1]) // 2] += count
    return counts


def _read_exact_latencies(endpoint: Endpoint, period: Period, steps: list[Step], total: Step) -> None:
    """Replace the buckets by the recorded latencies, so that a few requests have the percentiles they had.

    A step keeps its buckets if it does not have as many records, because they were pruned.
    """
    answered = RequestRecord.objects.filter(
        endpoint=endpoint, at__gte=total.start, error="", first_byte_ms__isnull=False
    )
    recorded: dict[int, Counter[int]] = {}
    for at, latency in answered.values_list("at", "latency_ms")[: MAX_EXACT + 1]:
        recorded.setdefault(_index(at, total.start, period), Counter())[latency] += 1
    for index, step in enumerate(steps):
        exact = recorded.get(index, Counter())
        if exact.total() == step.latencies.total():
            step.latencies = exact
    total.latencies = sum((step.latencies for step in steps), Counter())


def _index(moment: datetime, start: datetime, period: Period) -> int:
    return min(int((moment - start).total_seconds() // (period.hours_per_step * 3600)), period.steps - 1)


def last_day(endpoints: Iterable[Endpoint]) -> dict[UUID, int]:
    """Return the number of requests of each endpoint in the last 24 hours."""
    counts: Counter[UUID] = Counter()
    for model in (RequestRollup, OldRollup):
        rows = model.objects.filter(endpoint__in=list(endpoints), hour__gte=_first_hour())
        counts.update(dict(rows.values_list("endpoint_id").annotate(total=Sum("count"))))
    return counts


def hours_of_last_day(endpoints: Iterable[Endpoint]) -> dict[UUID, list[int]]:
    """Return the numbers of requests in each of the last 24 hours, for the endpoints that had any."""
    first = _first_hour()
    counts: dict[UUID, list[int]] = {}
    for model in (RequestRollup, OldRollup):
        rows = model.objects.filter(endpoint__in=list(endpoints), hour__gte=first)
        for endpoint_id, hour, total in rows.values_list("endpoint_id", "hour").annotate(total=Sum("count")):
            index = min(int((hour - first).total_seconds() // 3600), HOURS - 1)
            counts.setdefault(endpoint_id, [0] * HOURS)[index] += total
    return counts


def total_last_day() -> Expression:
    """An expression for the number of requests of an endpoint in the last 24 hours, to sort by."""
    sums = [
        Subquery(
            model.objects.filter(endpoint=OuterRef("pk"), hour__gte=_first_hour())
            .order_by()
            .values("endpoint")
            .annotate(total=Sum("count"))
            .values("total")
        )
        for model in (RequestRollup, OldRollup)
    ]
    return ExpressionWrapper(Coalesce(sums[0], 0) + Coalesce(sums[1], 0), output_field=IntegerField())


def _first_hour() -> datetime:
    return PERIODS["24h"].starts(timezone.now())[0]


def newest_record_at() -> datetime | None:
    """Return when the newest request was made. Only the endpoints of the newest hour are searched, by their index."""
    hour = Subquery(RequestRollup.objects.order_by("-hour").values("hour")[:1])
    busy = RequestRollup.objects.filter(hour=hour).values("endpoint")
    found: datetime | None = RequestRecord.objects.filter(endpoint__in=busy, at__gte=hour).aggregate(at=Max("at"))["at"]
    return found


def newest(rows: QuerySet[Row], count: int, until: datetime, *, time: str = "at") -> list[Row]:
    """Return the first `count` of `rows`, which must be sorted by `time`, newest first, and end at `until`.

    To select the first few, a database sorts all requests of all endpoints, which takes seconds for a million. So the
    last hour is searched first, and a longer time only if that has too few.
    """
    found: list[Row] = []
    for window in _SEARCH_WINDOWS:
        recent = rows if window is None else rows.filter(**{f"{time}__gte": until - window})
        found = list(recent[:count])
        if len(found) >= count:
            break
    return found
