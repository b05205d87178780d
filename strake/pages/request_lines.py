"""The lines of Activity: recorded requests, and refused ones, which are counted by minute and not recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

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
ANY_ERROR = "any"
_REFUSAL = "r"  # marks the id of a `RefusalCount` in a position


@dataclass(frozen=True, slots=True)
class Line:
    """One request, or `count` requests that were refused in a minute, the last of them `at` that time."""

    at: datetime
    endpoint: Endpoint
    token: str
    token_id: str
    status: int
    error: str
    position: str
    count: int = 1
    phase: str = ""
    first_byte_ms: int | None = None
    latency_ms: int | None = None

    @property
    def is_from_strake(self) -> bool:
        """True if Strake answered, and not the provider."""
        return bool(self.error)


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


@dataclass(frozen=True, slots=True)
class Filters:
    """Which lines to show. "" and None stand for all.

    `outcome` is a key of `OUTCOMES`, `error` a code or `ANY_ERROR`. Times are from `since` to before `until`.
    """

    outcome: str = ""
    status: int | None = None
    error: str = ""
    token_id: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def records(self, rows: QuerySet[RequestRecord]) -> QuerySet[RequestRecord]:
        if self.outcome:
            rows = rows.filter(status__range=OUTCOMES[self.outcome])
        if self.status is not None:
            rows = rows.filter(status=self.status)
        if self.error == ANY_ERROR:
            rows = rows.exclude(error="")
        elif self.error:
            rows = rows.filter(error=self.error)
        if self.token_id:
            rows = rows.filter(token_id=self.token_id)
        if self.since is not None:
            rows = rows.filter(at__gte=self.since)
        if self.until is not None:
            rows = rows.filter(at__lt=self.until)
        return rows

    def refusals(self, rows: QuerySet[RefusalCount]) -> QuerySet[RefusalCount]:
        if self.outcome or self.status is not None:
            low, high = OUTCOMES.get(self.outcome, (100, 599))
            codes = [code for code, status in _statuses().items() if low <= status <= high]
            codes = [code for code in codes if self.status in {None, _statuses()[code]}]
            rows = rows.filter(code__in=codes)
        if self.error and self.error != ANY_ERROR:
            rows = rows.filter(code=self.error)
        if self.token_id:
            rows = rows.filter(token_id=self.token_id)
        if self.since is not None:  # the index has the minutes only
            rows = rows.filter(minute__gt=self.since - timedelta(minutes=1), last_at__gte=self.since)
        if self.until is not None:
            rows = rows.filter(minute__lt=self.until, last_at__lt=self.until)
        return rows


def newest_lines(
    endpoints: QuerySet[Endpoint] | Endpoint,
    count: int,
    *,
    filters: Filters = Filters(),
    after: Position | None = None,
) -> list[Line]:
    """Return the newest `count` lines of these endpoints, those after a position if there is one.

    For one endpoint, a database can take the rows from the index in their order, and stop early.
    """
    if isinstance(endpoints, Endpoint):
        within: dict[str, Any] = {"endpoint": endpoints}
    else:
        within = {"endpoint__in": endpoints.order_by().values("pk")}
    records = filters.records(RequestRecord.objects.filter(**within)).order_by("-at", "-id")
    refusals = filters.refusals(RefusalCount.objects.filter(**within))
    refusals = refusals.order_by("-minute", "-last_at", "-id")
    if after is not None:
        records, refusals = after.older(records), after.older_refusals(refusals)
    until = min(filter(None, (timezone.now(), filters.until, after.at if after is not None else None)))
    return _merged(
        newest(records, count, until),
        newest(refusals, count, until, time="minute"),
        count,
    )


def all_lines(endpoints: QuerySet[Endpoint] | Endpoint, filters: Filters, *, chunk: int = 1000) -> Iterator[Line]:
    """Yield every line, newest first. Reads `chunk` lines at a time, so that no transaction stays open."""
    after: Position | None = None
    while lines := newest_lines(endpoints, chunk, filters=filters, after=after):
        yield from lines
        if len(lines) < chunk:
            return
        after = position(lines[-1].position)


def recent_lines(endpoint: Endpoint, count: int) -> list[Line]:
    """Return the newest `count` lines of one endpoint."""
    records = RequestRecord.objects.filter(endpoint=endpoint).select_related("token").order_by("-at", "-id")[:count]
    refusals = RefusalCount.objects.filter(endpoint=endpoint).order_by("-minute", "-last_at", "-id")[:count]
    labels = {record.token_id: record.token.label for record in records}
    return _merged(list(records), list(refusals), count, endpoints={endpoint.pk: endpoint}, labels=labels)


def _merged(
    records: list[RequestRecord],
    refusals: list[RefusalCount],
    count: int,
    *,
    endpoints: dict[UUID, Endpoint] | None = None,
    labels: dict[str, str] | None = None,
) -> list[Line]:
    """Return the newest lines. Looks up the endpoints, and the labels of tokens, that are not given.

    A join would make the database join all rows before it takes the first few.
    """
    rows: list[RequestRecord | RefusalCount] = [*records, *refusals]
    rows = sorted(rows, key=_sort_key, reverse=True)[:count]
    if endpoints is None:
        endpoints = Endpoint.objects.in_bulk({row.endpoint_id for row in rows})
    labels = labels or {}
    unknown = {row.token_id for row in rows} - labels.keys() - {NO_TOKEN}
    labels |= dict(BearerToken.objects.filter(pk__in=unknown).values_list("pk", "label"))
    lines = []
    for row in rows:
        if (endpoint := endpoints.get(row.endpoint_id)) is not None:  # else deleted meanwhile
            token = labels.get(row.token_id, "-")
            if isinstance(row, RequestRecord):
                lines.append(_line_of_record(row, endpoint, token))
            else:
                lines.append(_line_of_refusal(row, endpoint, token))
    return lines


def _sort_key(row: RequestRecord | RefusalCount) -> tuple[datetime, bool, int]:
    if isinstance(row, RequestRecord):
        return row.at, True, row.pk
    return row.last_at, False, row.pk


def _line_of_record(record: RequestRecord, endpoint: Endpoint, token: str) -> Line:
    return Line(
        at=record.at,
        endpoint=endpoint,
        token=token,
        token_id=record.token_id,
        status=record.status,
        error=record.error,
        position=f"{record.at.isoformat()}_{record.pk}",
        phase=record.phase,
        first_byte_ms=record.first_byte_ms,
        latency_ms=record.latency_ms,
    )


def _line_of_refusal(refusal: RefusalCount, endpoint: Endpoint, token: str) -> Line:
    return Line(
        at=refusal.last_at,
        endpoint=endpoint,
        token="several tokens" if refusal.token_id == NO_TOKEN else token,
        token_id=refusal.token_id,
        status=status_of(refusal.code),
        error=refusal.code,
        position=f"{refusal.last_at.isoformat()}_{_REFUSAL}{refusal.pk}",
        count=refusal.count,
    )


def status_of(code: str) -> int:
    """The status with which Strake refuses a request for this reason."""
    return _statuses().get(code, ProxyError.status)


@cache
def _statuses() -> dict[str, int]:
    """The status of each error code."""
    return {error.code: error.status for error in error_classes()}
