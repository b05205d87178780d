"""Requests per minute of a token: never more than its limit in any sixty seconds, counted exactly.

Each accepted request is remembered for a minute (a sliding-window log), so there is no window boundary at which twice
the limit fits. With Redis, all workers share one log. Without it, or while it is down, each process has its own.
"""

from __future__ import annotations

import math
from collections import deque
from time import monotonic
from typing import NamedTuple, Protocol

from proxy.errors import RateLimited
from proxy.http.names import Headers

WINDOW_SECONDS = 60
MAX_TOKENS = 10_000


class Rate(NamedTuple):
    """The state of a token's limit: requests remaining, and seconds until one more is available."""

    limit: int
    remaining: int
    reset: int

    def headers(self) -> Headers:
        """Return the fields of draft-ietf-httpapi-ratelimit-headers-06. Later drafts use others."""
        return [
            (b"ratelimit-limit", b"%d" % self.limit),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % self.reset),
            (b"ratelimit-policy", b"%d;w=%d" % (self.limit, WINDOW_SECONDS)),
        ]


class RateLimits(Protocol):
    """Counts requests per token."""

    async def take(self, token_id: str, limit: int) -> Rate:
        """Count one request of a token. Raises `RateLimited`, which counts nothing."""

    async def close(self) -> None:
        """Close connections and cancel tasks."""


class LocalRateLimits:
    """Keeps the log in the memory of this process."""

    def __init__(self) -> None:
        self._logs: dict[str, deque[float]] = {}

    async def take(self, token_id: str, limit: int) -> Rate:
        return self.count(token_id, limit)

    async def close(self) -> None:
        """There is nothing to close."""

    def count(self, token_id: str, limit: int) -> Rate:
        now = monotonic()
        log = self._logs.get(token_id)
        if log is None:
            if len(self._logs) >= MAX_TOKENS:
                self._remove_expired(now)
            log = self._logs[token_id] = deque()
        while log and log[0] <= now - WINDOW_SECONDS:
            log.popleft()
        if len(log) >= limit:
            raise rate_limited(limit, log[len(log) - limit] + WINDOW_SECONDS - now)
        log.append(now)
        return Rate(limit, limit - len(log), math.ceil(log[0] + WINDOW_SECONDS - now))

    def undo(self, token_id: str) -> None:
        """Remove the last request of a token."""
        log = self._logs.get(token_id)
        if log:
            log.pop()

    def _remove_expired(self, now: float) -> None:
        self._logs = {token_id: log for token_id, log in self._logs.items() if log and log[-1] > now - WINDOW_SECONDS}


def rate_limited(limit: int, wait: float) -> RateLimited:
    """The error for a token that has reached `limit`, with the next request in `wait` seconds."""
    seconds = max(1, math.ceil(wait))
    return RateLimited(rate=Rate(limit, 0, seconds).headers(), retry_after=seconds, limit=limit, wait=wait)
