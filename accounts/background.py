"""Work that must not hold up an answer, or show in its timing: one thread per process, bounded, with retries.

The queue lives in memory. What is lost with a process is a mail that the person asks for again.
"""

from __future__ import annotations

import atexit
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from django.db import connections

logger = logging.getLogger(__name__)

CAPACITY = 1000
RETRY_SECONDS = (2, 10, 60, 300)  # then given up: a link older than that is of little use
_LEAVE_SECONDS = 5


@dataclass(order=True, slots=True)
class _Job:
    due: float
    order: int
    name: str = field(compare=False)
    work: Callable[[], None] = field(compare=False)
    give_up: Callable[[], None] = field(compare=False)
    attempts: int = field(default=0, compare=False)


class BackgroundQueue:
    """Runs jobs in the order they fall due. A job that raises is tried again; after the last try `give_up` runs."""

    def __init__(self, capacity: int = CAPACITY, retry_seconds: tuple[float, ...] = RETRY_SECONDS) -> None:
        self.capacity = capacity
        self.retry_seconds = retry_seconds
        self._jobs: list[_Job] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._busy = False
        self._thread: threading.Thread | None = None

    def submit(self, name: str, work: Callable[[], None], give_up: Callable[[], None] = lambda: None) -> bool:
        """Queue a job; False where the queue is full and the job was dropped. `name` is for the log."""
        with self._changed:
            if len(self._jobs) >= self.capacity:
                logger.error("background queue is full; dropped %s", name)
                return False
            heapq.heappush(self._jobs, _Job(time.monotonic(), next(self._order), name, work, give_up))
            self._start()
            self._changed.notify_all()
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until nothing that is due now is left. False where that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy and not self.has_work(), seconds)

    @property
    def waiting(self) -> int:
        """How many jobs are not done yet."""
        return len(self._jobs) + self._busy

    def has_work(self) -> bool:
        """Whether a job is due now."""
        return bool(self._jobs) and self._jobs[0].due <= time.monotonic()

    def run_due(self) -> None:
        """Run every job that is due now, and those they queue in turn, in the calling thread."""
        while self.has_work():
            self._attempt(heapq.heappop(self._jobs))

    def _start(self) -> None:
        # At first use and not at import, since gunicorn forks after importing.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="strake-background", daemon=True)
            self._thread.start()
            atexit.register(self.wait, _LEAVE_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._jobs or self._jobs[0].due > time.monotonic():
                    self._changed.wait(self._jobs[0].due - time.monotonic() if self._jobs else None)
                job = heapq.heappop(self._jobs)
                self._busy = True
            try:
                self._attempt(job)
            finally:
                connections.close_all()
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _attempt(self, job: _Job) -> None:
        try:
            job.work()
        except Exception as error:  # noqa: BLE001  (one bad job must not end the thread that runs all others)
            job.attempts += 1
            if job.attempts <= len(self.retry_seconds):
                # The type alone: messages of mail servers quote addresses.
                logger.warning(
                    "background job %s failed with %s, attempt %d; trying again",
                    job.name,
                    type(error).__name__,
                    job.attempts,
                )
                job.due = time.monotonic() + self.retry_seconds[job.attempts - 1]
                with self._changed:
                    heapq.heappush(self._jobs, job)
                return
            logger.error("background job %s failed with %s; given up", job.name, type(error).__name__)  # noqa: TRY400
            try:
                job.give_up()
            except Exception as error:  # noqa: BLE001
                logger.error("background job %s: %s while giving up", job.name, type(error).__name__)  # noqa: TRY400


queue = BackgroundQueue()
