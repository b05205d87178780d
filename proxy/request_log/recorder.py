"""The request log: routing metadata of each request (endpoint, token, status, latency, time), and nothing else.

Requests that were forwarded are recorded one by one. Those that Strake refused are counted. It is written off the hot
path, by a thread.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, connection

from accounts.outage_log import OutageLog
from proxy.request_log.entries import Entry
from proxy.request_log.fair_queue import FairQueue
from proxy.request_log.refusals import RefusalCounts
from proxy.request_log.writer import abort, write, write_refusals

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5
MAX_PENDING = 100_000
# Of one transaction. SQLite's is in the memory of this process, which keeps what it once took.
MAX_BATCH = {"postgresql": 5_000, "sqlite": 2_000}
WRITE_SECONDS = 10.0  # how long a write may take before its connection is given up
SWITCH_INTERVAL_SECONDS = 0.000_5
NANOSECONDS_IN_MILLISECOND = 1_000_000


class RequestLog:
    """Collects entries and writes them in batches. Create it inside the event loop.

    If the database is not available, it keeps up to `MAX_PENDING` entries and tries again. Beyond that, the endpoint
    with the most entries loses its oldest ones. It never delays or fails a request.
    """

    def __init__(self) -> None:
        self._pending = FairQueue(MAX_PENDING)
        self._refusals = RefusalCounts()
        self._writing = 0
        self._max_batch = MAX_BATCH[connection.vendor]
        self._lost_of: Counter[UUID] = Counter()  # since the last report, by endpoint
        self._lost = 0
        self._reported = 0
        self._failing = False
        self._refusing = False
        self._outage = OutageLog(logger, "request_log_not_written", "request_log_written_again")
        self._caught_up_at = time.monotonic()
        self._flush_lock = asyncio.Lock()
        # A thread that nothing else uses, as the database may block it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="request-log")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        # The thread and the event loop share one interpreter. With Python's 5 ms turns, a request could wait that long
        # for the thread. So could the thread after each statement, while it holds the database's write lock.
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        self._task = asyncio.create_task(self._run())

    @property
    def waiting(self) -> int:
        """The number of entries that are not in the database yet."""
        return len(self._pending) + self._writing

    @property
    def written_until(self) -> float:
        """Entries that were added before this time of `time.monotonic` are in the database, or lost."""
        return self._caught_up_at

    @property
    def lag_seconds(self) -> float:
        """The time since every entry was in the database, or 0 if every entry is."""
        return time.monotonic() - self._caught_up_at if self.waiting else 0.0

    @property
    def lost(self) -> int:
        """The number of entries dropped and of refusals not counted since the start."""
        return self._lost + self._refusals.lost

    def add(self, entry: Entry) -> None:
        """Queue an entry."""
        if (loser := self._pending.add(entry)) is not None:
            self._lose([loser])

    def count_refusal(self, endpoint_id: UUID, token_id: str, code: str, at: float) -> None:
        """Count a request that was refused with this error code at `at`, in seconds since the epoch."""
        self._refusals.add(endpoint_id, token_id, code, at)

    async def stop(self) -> None:
        """Write what is left. If that fails, drop it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._flush()
        while (self._pending or self._refusals.waiting) and not self._failing:  # added during the write
            await self._flush()
        self._lose([entry.endpoint_id for entry in self._pending.take(len(self._pending))])
        self._lost += self._refusals.waiting
        self._report_dropped()
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            # Shielded from the cancellation in `stop`, after which the batch might be lost or written twice.
            await asyncio.shield(self._flush())

    async def _flush(self) -> None:
        """Write the entries that are pending now. Later ones wait, or load would cause a stream of small batches."""
        async with self._flush_lock:
            started, left = time.monotonic(), len(self._pending)
            while left:
                # Counted before they leave the queue, so that a thread that reads `waiting` sees them.
                self._writing = min(self._max_batch, left)
                batch = self._pending.take(self._writing)
                left = min(left - len(batch), len(self._pending))
                try:
                    unwritten = await self._write_entries(batch)
                finally:
                    self._writing = 0
                if unwritten:
                    self._lose(self._pending.put_back(unwritten))
                    return
            if refusals := self._refusals.take(time.time()):
                written = await self._write(write_refusals, refusals)
                if written is None:
                    self._refusals.put_back(refusals)
                    return
                if not written:
                    self._lost += sum(refusal.times for refusal in refusals)
            self._failing = self._refusing = False
            self._outage.works()
            self._caught_up_at = started
            self._report_dropped()

    async def _write_entries(self, batch: list[Entry]) -> list[Entry]:
        """Write entries. Returns those that are worth another try, and drops only those that the database refuses."""
        written = await self._write(write, batch)
        if written is None:
            return batch
        if written:
            return []
        if len(batch) == 1:
            self._lose([batch[0].endpoint_id])
            return []
        middle = len(batch) // 2
        if unwritten := await self._write_entries(batch[:middle]):
            return unwritten + batch[middle:]
        return await self._write_entries(batch[middle:])

    async def _write(self, function: Callable[[list[Any]], None], rows: list[Any]) -> bool | None:
        """Write rows in the thread. Returns None if it is worth another try, and False if it never will be."""
        writing = asyncio.get_running_loop().run_in_executor(self._thread, function, rows)
        while not (await asyncio.wait([writing], timeout=WRITE_SECONDS))[0]:
            abort()
        try:
            writing.result()
        except (DataError, IntegrityError) as error:
            return self._refused(error)
        except (DatabaseError, InterfaceError) as error:
            # The error is in the database's state: it is gone, full, read-only, or waits for a migration or a grant.
            self._failing = True
            self._outage.failed(error)
            return None
        except Exception as error:  # noqa: BLE001  (no error of the log may stop it)
            return self._refused(error)
        return True

    def _refused(self, error: Exception) -> bool:
        """Report that rows cannot be written. If there are many, once between two successful writes of all."""
        if not self._refusing:
            self._refusing = True
            logger.error("request_log_batch_refused kind=%s", type(error).__name__)
        return False

    def _lose(self, endpoint_ids: list[UUID]) -> None:
        self._lost += len(endpoint_ids)
        self._lost_of.update(endpoint_ids)

    def _report_dropped(self) -> None:
        if dropped := self.lost - self._reported:
            most = ",".join(f"{endpoint_id}:{count}" for endpoint_id, count in self._lost_of.most_common(3))
            logger.warning("request_log_entries_dropped count=%d most_of=%s", dropped, most or "-")
            self._reported = self.lost
            self._lost_of.clear()


def milliseconds_since(start: int) -> int:
    """Return the milliseconds since `start`, a reading of `time.perf_counter_ns`."""
    return (time.perf_counter_ns() - start) // NANOSECONDS_IN_MILLISECOND
