"""The lines of Activity: recorded requests, and refused ones, which are counted by minute and not recorded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache

from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from credentials.models import BearerToken, Endpoint
from proxy.errors import ProxyError
from proxy.http.error_response import error_classes
from proxy.models import RefusalCount, RequestRecord
from proxy.request_log.refusals import NO_TOKEN
from proxy.request_log.stats import newest

OUTCOMES = {"good": (100, 399), "refused": (400, 499), "failed": (500, 599)}
_REFUSAL = "r"  # marks the id of a `RefusalCount` in a position


@dataclass(frozen=True, slots=True)
class Line:
    """One request, or `count` requests that were refused in a minute, the last of them `at` that time."""

    at: datetime
    endpoint: Endpoint
    token: str
    status: int
    error: str
    position: str
    count: int = 1
    phase: str = ""
    first_byte_ms: int | None = None
    latency_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """A line, after which a page continues. Lines of the same time are ordered: requests first, newer ids first."""

    at: datetime
    pk: int
    is_refusal: bool

    def older(self, rows: QuerySet[RequestRecord]) -> QuerySet[RequestRecord]:
        if self.is_refusal:
            return rows.filter(at__lt=self.at)
        return rows.filter(Q(at__lt=self.at) | Q(at=self.at, pk__lt=self.pk))

    def older_refusals(self, rows: QuerySet[RefusalCount]) -> QuerySet[RefusalCount]:
        rows = rows.filter(minute__lte=self.at)  # the index has the minutes only
        if self.is_refusal:
            return rows.filter(Q(last_at__lt=self.at) | Q(last_at=self.at, pk__lt=self.pk))
        return rows.filter(last_at__lte=self.at)


def position(text: str) -> Position | None:
    """Return the position that `Line.position` wrote, or None if `text` is none."""
    moment, _, pk = text.partition("_")
    try:
        at = parse_datetime(moment)
    except ValueError:
        return None
    number = pk.removeprefix(_REFUSAL)
    if at is None or at.tzinfo is None or not (number.isascii() and number.isdigit() and len(number) < 19):
        return None
    return Position(at, int(number), pk != number)


def newest_lines(endpoints: QuerySet[Endpoint], count: int, *, outcome: str = "", after: Position | None) -> list[Line]:
    """Return the newest `count` lines of these endpoints, those after a position if there is one.

    `outcome` is a key of `OUTCOMES`, or "" for all.
    """
    within = endpoints.order_by().values("pk")
    records = RequestRecord.objects.filter(endpoint__in=within).order_by("-at", "-id")
    refusals = RefusalCount.objects.filter(endpoint__in=within).order_by("-minute", "-last_at", "-id")
    if outcome in OUTCOMES:
        low, high = OUTCOMES[outcome]
        records = records.filter(status__range=(low, high))
        refusals = refusals.filter(code__in=[code for code, status in _statuses().items() if low <= status <= high])
    if after is not None:
        records, refusals = after.older(records), after.older_refusals(refusals)
    until = after.at if after is not None else timezone.now()
    return _merged(
        newest(records, count, until, related=("endpoint", "token")),
        newest(refusals, count, until, time="minute", related=("endpoint",)),
        count,
    )


def recent_lines(endpoint: Endpoint, count: int) -> list[Line]:
    """Return the newest `count` lines of one endpoint."""
    records = RequestRecord.objects.filter(endpoint=endpoint).select_related("endpoint", "token")
    refusals = RefusalCount.objects.filter(endpoint=endpoint).select_related("endpoint")
    return _merged(
        list(records.order_by("-at", "-id")[:count]),
        list(refusals.order_by("-minute", "-last_at", "-id")[:count]),
        count,
    )


def _merged(records: list[RequestRecord], refusals: list[RefusalCount], count: int) -> list[Line]:
    labels = dict(
        BearerToken.objects.filter(pk__in={refusal.token_id for refusal in refusals}).values_list("pk", "label")
    )
    found = [((record.at, True, record.pk), _line_of_record(record)) for record in records]
    found += [((row.last_at, False, row.pk), _line_of_refusal(row, labels)) for row in refusals]
    found.sort(key=lambda pair: pair[0], reverse=True)
    return [line for _, line in found[:count]]


def _line_of_record(record: RequestRecord) -> Line:
    return Line(
        at=record.at,
        endpoint=record.endpoint,
        token=record.token.label,
        status=record.status,
        error=record.error,
        position=f"{record.at.isoformat()}_{record.pk}",
        phase=record.phase,
        first_byte_ms=record.first_byte_ms,
        latency_ms=record.latency_ms,
    )


def _line_of_refusal(refusal: RefusalCount, labels: dict[str, str]) -> Line:
    return Line(
        at=refusal.last_at,
        endpoint=refusal.endpoint,
        token="several tokens" if refusal.token_id == NO_TOKEN else labels.get(refusal.token_id, "-"),
        status=_statuses().get(refusal.code, ProxyError.status),
        error=refusal.code,
        position=f"{refusal.last_at.isoformat()}_{_REFUSAL}{refusal.pk}",
        count=refusal.count,
    )


@cache
def _statuses() -> dict[str, int]:
    """The status of each error code."""
    return {error.code: error.status for error in error_classes()}
