"""A circuit breaker for the stores that a request needs: the database and Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from accounts import outage_log
from accounts.outage_log import OutageLog

logger = logging.getLogger(__name__)


class CircuitBreaker:
    """Keeps requests away from a service that failed, until a probe succeeds.

    Closed, it does nothing. `trip` opens it and starts a task that awaits `probe` at once and then every `seconds`. It
    closes when `probe` returns. So no request waits for a service that is down. Callers check `is_open` before they use
    the service. An outage is logged twice, as `OutageLog` says: `<service>_unavailable` and `<service>_back`.
    """

    def __init__(self, service: str, probe: Callable[[], Awaitable[None]], seconds: float) -> None:
        self.is_open = False
        self._outage = OutageLog(logger, f"{service}_unavailable", f"{service}_back")
        self._probe = probe
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None
        self._report: asyncio.TimerHandle | None = None

    def trip(self, error: BaseException) -> None:
        """Open the breaker because of `error`. Does nothing if it is open."""
        if self.is_open:
            return
        self.is_open = True
        self._outage.failed(error)
        self.stop()
        self._task = asyncio.create_task(self._probe_until_back())

    def stop(self) -> None:
        """Cancel the probe, at shutdown."""
        if self._task is not None:
            self._task.cancel()
        if self._report is not None:
            self._report.cancel()

    async def _probe_until_back(self) -> None:
        while True:
            try:
                await self._probe()
            except Exception:  # noqa: BLE001  (an error that ended this task would leave the breaker open for ever)
                await asyncio.sleep(self._seconds)
            else:
                self.is_open = False
                self._outage.works()
                loop = asyncio.get_running_loop()
                self._report = loop.call_later(outage_log.STABLE_SECONDS, self._outage.works)
                return
