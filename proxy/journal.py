"""Routing metadata of requests, written off the hot path: endpoint, token, status, latency, when. Nothing else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from django.db import close_old_connections, connection, transaction
from django.db.models import F, Q

from credentials.models import BearerToken
from proxy.models import RequestRollup

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5
MOST_PENDING = 50_000
BATCH = 5_000
# Upper bounds of the rollups' latency histogram, in milliseconds; the last class is open.
LATENCY_BOUNDS_MS = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000)


class Entry(NamedTuple):
    """One proxied request. Times are in milliseconds; `at` in seconds since the epoch."""

    endpoint_id: UUID
    token_id: str
    status: int
    latency_ms: int
    first_byte_ms: int | None
    at: float


class Journal:
    """Collects entries and writes them in batches from a thread. Full or failing, it loses entries, never requests."""

    def __init__(self) -> None:
        self._pending: deque[Entry] = deque()
        self._lost = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def add(self, entry: Entry) -> None:
        """Note one request. Costs an append."""
        if len(self._pending) < MOST_PENDING:
            self._pending.append(entry)
        else:
            self._lost += 1

    async def stop(self) -> None:
        """Write what is left, once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self._flush()

    async def _flush(self) -> None:
        while self._pending:
            batch = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
            try:
                await asyncio.shield(asyncio.to_thread(write, batch))
            except Exception as error:  # noqa: BLE001  (whatever the database does, requests go on)
                self._lost += len(batch)
                logger.warning("journal_write_failed kind=%s lost=%d", type(error).__name__, len(batch))
                return
        if self._lost:
            logger.warning("journal_entries_lost count=%d", self._lost)
            self._lost = 0


def write(batch: list[Entry]) -> None:
    """Write entries, their rollups and the tokens' last use in one transaction. Called in a thread."""
    close_old_connections()
    try:
        with transaction.atomic():
            _insert(batch)
            _roll_up(batch)
            last_used: dict[str, float] = {}
            for entry in batch:
                last_used[entry.token_id] = max(entry.at, last_used.get(entry.token_id, 0))
            for token_id, at in sorted(last_used.items()):
                when = datetime.fromtimestamp(at, UTC)
                BearerToken.objects.filter(Q(last_used_at=None) | Q(last_used_at__lt=when), pk=token_id).update(
                    last_used_at=when
                )
    finally:
        close_old_connections()


def _insert(batch: list[Entry]) -> None:
    """One prepared statement for all rows: through the ORM this took more of the interpreter than forwarding does."""
    native = connection.features.has_native_uuid_field
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO proxy_requestrecord (endpoint_id, token_id, status, latency_ms, first_byte_ms, at) "
            "VALUES (%s, %s, %s, %s, %s, %s)",
            [
                (
                    endpoint_id if native else endpoint_id.hex,
                    token_id,
                    status,
                    latency_ms,
                    first_byte_ms,
                    connection.ops.adapt_datetimefield_value(datetime.fromtimestamp(at, UTC)),
                )
                for endpoint_id, token_id, status, latency_ms, first_byte_ms, at in batch
            ],
        )


def _roll_up(batch: list[Entry]) -> None:
    counts: dict[tuple[UUID, int, int], Counter[int]] = {}
    for entry in batch:
        hour = int(entry.at // 3600)
        classes = counts.setdefault((entry.endpoint_id, hour, entry.status // 100), Counter())
        classes[_latency_class(entry.latency_ms)] += 1
    for (endpoint_id, hour, status_class), classes in sorted(counts.items(), key=str):
        rollup, _ = RequestRollup.objects.select_for_update().get_or_create(
            endpoint_id=endpoint_id,
            hour=datetime.fromtimestamp(hour * 3600, UTC),
            status_class=status_class,
            defaults={"count": 0, "latency_histogram": [0] * (len(LATENCY_BOUNDS_MS) + 1)},
        )
        histogram = [known + classes[index] for index, known in enumerate(rollup.latency_histogram)]
        RequestRollup.objects.filter(pk=rollup.pk).update(
            count=F("count") + sum(classes.values()), latency_histogram=histogram
        )


def _latency_class(latency_ms: int) -> int:
    for index, bound in enumerate(LATENCY_BOUNDS_MS):
        if latency_ms < bound:
            return index
    return len(LATENCY_BOUNDS_MS)


def milliseconds_since(start: float) -> int:
    """From a `time.perf_counter` reading until now."""
    return int((time.perf_counter() - start) * 1000)
