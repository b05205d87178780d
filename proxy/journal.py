"""Routing metadata of requests, written off the hot path: endpoint, token, status, latency, when. Nothing else."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from bisect import bisect_right
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db import InterfaceError, OperationalError, close_old_connections, connection, transaction
from django.db.backends.utils import CursorWrapper

from credentials.models import BearerToken
from proxy.models import RequestRollup

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5
MOST_PENDING = 100_000
BATCH = 5_000
ROWS = 500  # per statement; databases limit the number of its parameters
SWITCH_SECONDS = 0.000_5
_MOST_MS = 2**31 - 1
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
    """Collects entries and writes them in batches from a thread. Full, it loses the oldest entries, never requests.

    What cannot be written is kept and tried again, up to `MOST_PENDING` entries. Create it inside the event loop.
    """

    def __init__(self) -> None:
        self._pending: deque[Entry] = deque(maxlen=MOST_PENDING)
        self._writing = 0
        self._lost = 0
        self._failing = False
        self._caught_up = time.monotonic()
        self._flushing = asyncio.Lock()
        # One thread, so that a database that blocks it blocks nothing else.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        # The thread and the event loop take turns on one interpreter. At the usual 5 ms a turn, a request could wait
        # for one, and the thread for one after each statement, while it holds the database's write lock.
        sys.setswitchinterval(SWITCH_SECONDS)
        global _running
        _running = self
        self._task = asyncio.create_task(self._run())

    @property
    def waiting(self) -> int:
        """How many entries are not in the database yet."""
        return len(self._pending) + self._writing

    @property
    def lag_seconds(self) -> float:
        """For how long entries have been waiting; 0 where none is."""
        return time.monotonic() - self._caught_up if self.waiting else 0.0

    def add(self, entry: Entry) -> None:
        """Note one request. Costs an append."""
        if len(self._pending) == MOST_PENDING:
            self._lost += 1
        self._pending.append(entry)

    async def stop(self) -> None:
        """Write what is left, in one attempt."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._flush()
        while self._pending and not self._failing:  # what came meanwhile
            await self._flush()
        self._lost += len(self._pending)
        self._pending.clear()
        self._report()
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            # Not to be torn apart by the cancellation that stops this: the batch would be written twice, or not.
            await asyncio.shield(self._flush())

    async def _flush(self) -> None:
        """Write what is there now. What comes meanwhile waits: under load it would be one small batch after another."""
        async with self._flushing:
            begun, left = time.monotonic(), len(self._pending)
            while left:
                batch = [self._pending.popleft() for _ in range(min(BATCH, left))]
                left -= len(batch)
                self._writing = len(batch)
                try:
                    await asyncio.get_running_loop().run_in_executor(self._thread, write, batch)
                except (OperationalError, InterfaceError) as error:
                    self._keep(batch, error)
                    return
                except Exception as error:  # noqa: BLE001  (whatever the database says, requests go on)
                    # Not the database's condition but the batch's own: it would fail again for ever.
                    self._lost += len(batch)
                    logger.error("journal_batch_dropped kind=%s", type(error).__name__)  # noqa: TRY400
                finally:
                    self._writing = 0
            self._failing = False
            self._caught_up = begun
            self._report()

    def _keep(self, batch: list[Entry], error: Exception) -> None:
        """Put a batch back in front, as far as there is room."""
        room = MOST_PENDING - len(self._pending)
        kept = batch[len(batch) - min(room, len(batch)) :]
        self._lost += len(batch) - len(kept)
        self._pending.extendleft(reversed(kept))
        if not self._failing:
            self._failing = True
            logger.warning("journal_not_written kind=%s", type(error).__name__)

    def _report(self) -> None:
        if self._lost:
            logger.warning("journal_entries_lost count=%d", self._lost)
            self._lost = 0


_running: Journal | None = None


def of_this_process() -> Journal | None:
    """The journal that was started last in this process; None where nothing is forwarded, as in a command."""
    return _running


# --- Writing, in the thread ----------------------------------------------------------------------------------------
#
# Few statements with many values: each may cost a wait for the interpreter, while SQLite's write lock is held.


def write(batch: list[Entry]) -> None:
    """Write entries, their rollups and the tokens' last use in one transaction. Raises what the database raises."""
    rows = [_row(entry) for entry in batch]
    counts = _counts(batch)
    last_used = _last_used(batch)
    close_old_connections()
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                # Workers write one after the other, as on SQLite: rollups are read before they are written.
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            _insert(cursor, _RECORDS, rows)
            _roll_up(cursor, counts)
            BearerToken.objects.bulk_update(last_used, ["last_used_at"], batch_size=500)
    finally:
        close_old_connections()


_LOCK = int.from_bytes(b"strake-j")
_RECORDS = "INSERT INTO proxy_requestrecord (endpoint_id, token_id, status, latency_ms, first_byte_ms, at) VALUES "
_ROLLUPS = "INSERT INTO proxy_requestrollup (endpoint_id, hour, status_class, count, latency_histogram) VALUES "
_REPLACING = (
    " ON CONFLICT (endpoint_id, hour, status_class) "
    "DO UPDATE SET count = excluded.count, latency_histogram = excluded.latency_histogram"
)


def _row(entry: Entry) -> tuple[Any, ...]:
    first_byte = None if entry.first_byte_ms is None else min(entry.first_byte_ms, _MOST_MS)
    return (
        _uuid(entry.endpoint_id),
        entry.token_id,
        entry.status,
        min(entry.latency_ms, _MOST_MS),
        first_byte,
        _time(entry.at),
    )


def _counts(batch: list[Entry]) -> dict[tuple[UUID, int, int], list[int]]:
    """Latency histograms by endpoint, hour since the epoch, and status class."""
    counts: dict[tuple[UUID, int, int], list[int]] = {}
    for entry in batch:
        key = (entry.endpoint_id, int(entry.at // 3600), entry.status // 100)
        histogram = counts.setdefault(key, [0] * (len(LATENCY_BOUNDS_MS) + 1))
        histogram[bisect_right(LATENCY_BOUNDS_MS, entry.latency_ms)] += 1
    return counts


def _last_used(batch: list[Entry]) -> list[BearerToken]:
    latest: dict[str, float] = {}
    for entry in batch:
        latest[entry.token_id] = max(entry.at, latest.get(entry.token_id, 0.0))
    return [BearerToken(pk=token_id, last_used_at=datetime.fromtimestamp(at, UTC)) for token_id, at in latest.items()]


def _roll_up(cursor: CursorWrapper, counts: dict[tuple[UUID, int, int], list[int]]) -> None:
    known: dict[tuple[UUID, int, int], list[int]] = {}
    stored = RequestRollup.objects.filter(
        endpoint_id__in={endpoint_id for endpoint_id, _, _ in counts},
        hour__in={datetime.fromtimestamp(hour * 3600, UTC) for _, hour, _ in counts},
    )
    for endpoint_id, when, status_class, histogram in stored.values_list(
        "endpoint_id", "hour", "status_class", "latency_histogram"
    ):
        known[endpoint_id, int(when.timestamp() // 3600), status_class] = histogram
    rows = []
    for (endpoint_id, hour, status_class), histogram in counts.items():
        before = known.get((endpoint_id, hour, status_class), [0] * len(histogram))
        total = [one + more for one, more in zip(before, histogram, strict=True)]
        rows.append((_uuid(endpoint_id), _time(hour * 3600), status_class, sum(total), json.dumps(total)))
    _insert(cursor, _ROLLUPS, rows, _REPLACING)


def _insert(cursor: CursorWrapper, head: str, rows: list[tuple[Any, ...]], tail: str = "") -> None:
    """One statement for up to `ROWS` rows. Through the ORM this took more of the interpreter than forwarding does."""
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        row = f"({', '.join(['%s'] * len(part[0]))})"
        cursor.execute(head + ", ".join([row] * len(part)) + tail, [value for values in part for value in values])


def _uuid(value: UUID) -> UUID | str:
    return value if connection.features.has_native_uuid_field else value.hex


def _time(at: float) -> Any:
    return connection.ops.adapt_datetimefield_value(datetime.fromtimestamp(at, UTC))


def milliseconds_since(start: float) -> int:
    """From a `time.perf_counter` reading until now."""
    return int((time.perf_counter() - start) * 1000)
