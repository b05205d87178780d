"""Publishes the metrics of one server process, from threads.

A process takes the first free number of its half, and goes on with the totals that the last one with this number has
published. So a total does not fall when a worker is replaced or killed. What it counted in its last second is lost.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.db import connections

from accounts.metrics import Gauge, registry
from strake.metrics import snapshots
from strake.metrics.process import measure_process
from strake.metrics.snapshots import Totals

logger = logging.getLogger(__name__)

PUBLISH_SECONDS = 1.0
LOOK_SECONDS = 15.0
STOP_SECONDS = 5.0

PROCESSES = Gauge("strake_processes", "Running server processes that publish metrics.", ["half"])


class Publisher:
    """Publishes everything in `accounts.metrics.registry`. Without `STRAKE_METRICS_BIND` it does nothing.

    Call `start` in the process that serves: threads do not survive a fork. `measure` gets the name of this process and
    brings its metrics up to date, once a second. It must not wait for anything. `look` may ask the database, in another
    thread, every `LOOK_SECONDS`: only one process of a half does so on a host.
    """

    def __init__(self, half: str, measure: Callable[[str], None], look: Callable[[], None]) -> None:
        self._half = half
        self._measure = measure
        self._look = look
        self._is_looking = False
        self._failing: set[str] = set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if settings.STRAKE_METRICS_BIND:
            self._try("start", self._start)

    def _start(self) -> None:
        self._folder: Path = settings.STRAKE_RUNTIME.folder / self._half
        self._mode = settings.STRAKE_RUNTIME.socket_mode & 0o640
        self._slot = self._take_slot()
        self._path = self._folder / f"metrics-{self._slot}.json"
        self._before = Totals()
        self._before.add(snapshots.read(self._path)[0], gauges=False)
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()
        threading.Thread(target=self._run_looks, name="metrics-look", daemon=True).start()

    def stop(self) -> None:
        """Publish the last totals, without gauges."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    # --- Publishing ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.wait(PUBLISH_SECONDS):
            self._try("publish", self._publish)
        self._try("publish", lambda: self._publish(gauges=False))

    def _publish(self, *, gauges: bool = True) -> None:
        PROCESSES.set(1, self._half)
        name = f"{self._half}-{self._slot}"
        measure_process(name)
        self._measure(name)
        totals = Totals()
        totals.add(self._before.snapshot(), gauges=False)
        totals.add(snapshots.taken(list(registry.values())), gauges=gauges)
        snapshots.write(self._path, totals.snapshot(), self._mode)

    def _take_slot(self) -> int:
        slot = 0
        while not self._lock(f"metrics-{slot}.lock"):
            slot += 1
        return slot

    def _lock(self, name: str) -> bool:
        """Lock a file until this process ends, however it does. Returns whether no other process holds the lock."""
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        return True

    # --- Looking ---------------------------------------------------------------------------------------------------

    def _run_looks(self) -> None:
        while True:
            self._try("look", self._look_in_turn)
            connections.close_all()
            if self._stopping.wait(LOOK_SECONDS):
                return

    def _look_in_turn(self) -> None:
        self._is_looking = self._is_looking or self._lock("metrics-look.lock")
        if self._is_looking:
            self._look()

    def _try(self, name: str, work: Callable[[], None]) -> None:
        """Do one piece of work. No error ends the metrics: an outage passes. Only the first in a row is logged."""
        try:
            work()
        except Exception as error:  # noqa: BLE001  (the message may hold the database's address)
            if name not in self._failing:
                logger.warning("metrics_failed work=%s kind=%s", name, type(error).__name__)
            self._failing.add(name)
        else:
            self._failing.discard(name)
