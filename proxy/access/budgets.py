"""Requests a day and a month of a token with its children, by the hourly totals of the request log.

What is stored is read off the hot path, for the tokens that are in use, and no request is decided by figures that are
older than `STALE_SECONDS` unless the database fails. Other processes write what they have forwarded within half a
second. This process adds its own requests that are not in the totals yet, so alone it is exact.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import NamedTuple, Protocol
from uuid import UUID

from django.db.models import Q, Sum

from proxy.access.route import Budget
from proxy.database_thread import DatabaseThread
from proxy.errors import StoreUnavailable
from proxy.limit_errors import BudgetExceeded
from proxy.models import RequestRollup

REFRESH_SECONDS = 2.0
STALE_SECONDS = 4.0
# How often the days before today are read again: a stream that began before midnight is recorded when it ends.
EARLIER_DAYS_SECONDS = 600.0
MAX_TOKENS = 10_000
_SLICES = 4  # of a second, by which requests that have ended are counted until they are stored


class Log(Protocol):
    """The request log."""

    @property
    def written_until(self) -> float:
        """Entries that were added before this time of `monotonic` are stored, or lost."""


class _Usage:
    """The requests of one token and its children."""

    __slots__ = (
        "day",
        "earlier",
        "earlier_read_at",
        "ended",
        "endpoint_id",
        "read_at",
        "today",
        "token_id",
        "unstored",
    )

    def __init__(self, token_id: str, endpoint_id: UUID, day: datetime) -> None:
        self.token_id = token_id
        self.endpoint_id = endpoint_id
        self.day = day
        self.today = 0  # stored
        self.earlier = 0  # stored, of this month before today
        self.read_at = self.earlier_read_at = -math.inf
        self.unstored = 0  # of this process: in flight, or ended and perhaps not stored
        self.ended: dict[int, int] = {}  # those of them that have ended, by the time

    def begin_day(self, day: datetime) -> None:
        self.earlier = 0 if day.month != self.day.month else self.earlier + self.today
        self.today = 0
        self.earlier_read_at = -math.inf
        self.day = day

    def end(self) -> None:
        """Count a request that is in the log from now on."""
        time_slice = int(monotonic() * _SLICES)
        self.ended[time_slice] = self.ended.get(time_slice, 0) + 1

    def forget_stored(self, written_until: float) -> None:
        """Forget the requests that were in the log before a time up to which the log was stored, then read."""
        for time_slice in [one for one in self.ended if one + 1 <= written_until * _SLICES]:
            self.unstored -= self.ended.pop(time_slice)

    def check(self, budget: Budget) -> None:
        """Raise `BudgetExceeded` if there is no room for another request."""
        today = self.today + self.unstored
        if budget.per_month is not None and self.earlier + today >= budget.per_month:
            raise BudgetExceeded("month", retry_after=_seconds_until(_next_month(self.day)))
        if budget.per_day is not None and today >= budget.per_day:
            raise BudgetExceeded("day", retry_after=_seconds_until(self.day + timedelta(days=1)))


class Budgets:
    """The use of the budgets of all tokens that this process forwards for."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._thread = DatabaseThread("budgets")
        self._usages: dict[str, _Usage] = {}
        self._open: dict[object, list[_Usage]] = {}
        self._due: dict[str, _Usage] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._failed_at = -math.inf

    async def take(self, request: object, budgets: tuple[Budget, ...]) -> None:
        """Count a request for each of these budgets until `end`. Raises `BudgetExceeded`, and then counts nothing."""
        now, day = monotonic(), _today()
        usages = [self._usage(budget, day) for budget in budgets]
        age = now - min(usage.read_at for usage in usages)
        # While the database fails, requests go on with what is known.
        if age >= REFRESH_SECONDS and now - self._failed_at >= REFRESH_SECONDS:
            self._due.update((usage.token_id, usage) for usage in usages)
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._refresh())
            if age >= STALE_SECONDS:
                read: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(read)
                await read
        for usage, budget in zip(usages, budgets, strict=True):
            usage.check(budget)
        for usage in usages:
            usage.unstored += 1
        self._open[request] = usages

    def end(self, request: object, *, is_recorded: bool) -> None:
        """End what `take` began, once: the request is in the log now, or, without `is_recorded`, will never be."""
        for usage in self._open.pop(request, ()):
            if is_recorded:
                usage.end()
            else:
                usage.unstored -= 1

    async def close(self) -> None:
        """Cancel the task."""
        if self._task is not None:
            self._task.cancel()

    def _usage(self, budget: Budget, day: datetime) -> _Usage:
        usage = self._usages.get(budget.token_id)
        if usage is None:
            if len(self._usages) >= MAX_TOKENS:
                self._usages = {token_id: one for token_id, one in self._usages.items() if one.unstored}
            usage = self._usages[budget.token_id] = _Usage(budget.token_id, budget.endpoint_id, day)
        elif usage.day != day:
            usage.begin_day(day)
        return usage

    async def _refresh(self) -> None:
        try:
            while self._due:
                usages, self._due = list(self._due.values()), {}
                waiting, self._waiting = self._waiting, []
                try:
                    await self._read(usages)
                except StoreUnavailable:
                    self._failed_at = monotonic()
                finally:
                    for one in waiting:
                        if not one.done():
                            one.set_result(None)
        finally:
            self._task = None

    async def _read(self, usages: list[_Usage]) -> None:
        started, written_until, day = monotonic(), self._log.written_until, _today()
        late = [one for one in usages if started - one.earlier_read_at >= EARLIER_DAYS_SECONDS]
        tokens, endpoints = _ids(usages)
        late_tokens, late_endpoints = _ids(late)

        def read() -> tuple[dict[str, int], dict[str, int]]:
            month = day.replace(day=1)
            earlier = _stored(late_tokens, late_endpoints, Q(hour__gte=month, hour__lt=day)) if late else {}
            return _stored(tokens, endpoints, Q(hour__gte=day)), earlier

        today, earlier = await self._thread.run(read)
        for usage in usages:
            if usage.day == day:
                usage.today = today.get(usage.token_id, 0)
                usage.read_at = started
                usage.forget_stored(written_until)
        for usage in late:
            if usage.day == day:
                usage.earlier = earlier.get(usage.token_id, 0)
                usage.earlier_read_at = started


def _ids(usages: Iterable[_Usage]) -> tuple[set[str], set[UUID]]:
    return {usage.token_id for usage in usages}, {usage.endpoint_id for usage in usages}


class _Total(NamedTuple):
    token_id: str
    parent_id: str | None
    requests: int


def _stored(tokens: set[str], endpoints: set[UUID], hours: Q) -> dict[str, int]:
    """Read the totals of tokens, each with those of its children. Called in a thread."""
    rows = (
        RequestRollup.objects.filter(hours, endpoint_id__in=endpoints)  # so that the index is used
        .filter(Q(token_id__in=tokens) | Q(token__parent_id__in=tokens))
        .order_by()
        .values_list("token_id", "token__parent_id")
        .annotate(total=Sum("count"))
    )
    found = dict.fromkeys(tokens, 0)
    for row in map(_Total._make, rows):
        for token_id in (row.token_id, row.parent_id):
            if token_id in found:
                found[token_id] += row.requests
    return found


def _today() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _next_month(day: datetime) -> datetime:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _seconds_until(time: datetime) -> int:
    return max(1, math.ceil((time - datetime.now(UTC)).total_seconds()))
