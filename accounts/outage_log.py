"""Lines in the log about something that fails for a while: one when it begins, and one when it is over."""

from __future__ import annotations

import logging
from time import monotonic

STABLE_SECONDS = 10.0  # what fails again within this time has not been back


class OutageLog:
    """Logs `<begin> kind=…` at the first failure, and `<end> seconds=… failures=…` once it works again.

    If it fails again soon after that, one more such pair is for all failures until it has worked for `STABLE_SECONDS`.
    So something that works every other second does not fill the log, whose last line still says whether it works.
    """

    def __init__(self, logger: logging.Logger, begin: str, end: str) -> None:
        self._logger = logger
        self._begin, self._end = begin, end
        self._since: float | None = None  # when the outage that the log knows about began
        self._works_since: float | None = None  # during an outage
        self._failures = 0
        self._is_flapping = False
        self._ended_at = -STABLE_SECONDS

    def failed(self, error: BaseException) -> None:
        """Report a failure. Of `error` only the type is logged: its text can quote addresses and statements."""
        self._failures += 1
        self._works_since = None
        if self._since is None:
            self._since = monotonic()
            self._is_flapping = self._since - self._ended_at < STABLE_SECONDS
            self._logger.warning("%s kind=%s", self._begin, type(error).__name__)

    def works(self) -> None:
        """Report that it works now. Call this again after `STABLE_SECONDS` without a failure."""
        if self._since is None:
            return
        now = monotonic()
        if self._works_since is None:
            self._works_since = now
        if self._is_flapping and now - self._works_since < STABLE_SECONDS:
            return
        self._logger.warning("%s seconds=%.1f failures=%d", self._end, self._works_since - self._since, self._failures)
        self._since, self._failures, self._ended_at = None, 0, now
