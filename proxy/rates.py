"""Requests per minute of a token: never more than its limit in any sixty seconds, counted exactly.

Each accepted request is remembered for a minute (a sliding log), so there are no windows with a boundary to game, and
no share that comes back early. With Redis the log is one for all workers; without it, or while it is down, each
process keeps its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from time import monotonic
from typing import NamedTuple, Protocol

import redis.asyncio
from django.conf import settings
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from proxy.errors import Headers, RateLimited

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 60
# Redis answers in a millisecond; the rest of this is what a busy worker takes to look at the answer. It is waited for
# once, not by every request.
REDIS_SECONDS = 0.5
PROBE_SECONDS = 1.0
MOST_AT_ONCE = 200
MOST_TOKENS = 10_000


class Rate(NamedTuple):
    """Where a token stands: its limit, how many requests are left, and in how many seconds the next one comes back."""

    limit: int
    remaining: int
    reset: int

    def headers(self) -> Headers:
        """The fields of draft-ietf-httpapi-ratelimit-headers, in the spelling that clients know."""
        return [
            (b"ratelimit-limit", b"%d" % self.limit),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % self.reset),
            (b"ratelimit-policy", b"%d;w=%d" % (self.limit, WINDOW_SECONDS)),
        ]


class Rates(Protocol):
    """Counts requests."""

    async def take(self, token_id: str, limit: int) -> Rate:
        """Count one request of a token. Raises `RateLimited`, which counts nothing."""

    async def close(self) -> None:
        """Let go of connections and tasks."""


def configured() -> Rates:
    """Shared through Redis where there is one, else this process's own."""
    return SharedRates(settings.REDIS_URL) if settings.REDIS_URL else LocalRates()


class LocalRates:
    """The log in the memory of this process."""

    def __init__(self) -> None:
        self._logs: dict[str, deque[float]] = {}

    async def take(self, token_id: str, limit: int) -> Rate:
        return self.count(token_id, limit)

    async def close(self) -> None:
        """Nothing to let go of."""

    def count(self, token_id: str, limit: int) -> Rate:
        now = monotonic()
        log = self._logs.get(token_id)
        if log is None:
            if len(self._logs) >= MOST_TOKENS:
                self._forget(now)
            log = self._logs[token_id] = deque()
        while log and log[0] <= now - WINDOW_SECONDS:
            log.popleft()
        if len(log) >= limit:
            raise _limited(limit, log[len(log) - limit] + WINDOW_SECONDS - now)
        log.append(now)
        return Rate(limit, limit - len(log), math.ceil(log[0] + WINDOW_SECONDS - now))

    def give_back(self, token_id: str) -> None:
        """Take the last request of a token out again."""
        log = self._logs.get(token_id)
        if log:
            log.pop()

    def _forget(self, now: float) -> None:
        self._logs = {token_id: log for token_id, log in self._logs.items() if log and log[-1] > now - WINDOW_SECONDS}


# One step for Redis, so that no other worker comes in between. KEYS: the log of one token, oldest first, in
# microseconds of Redis's own clock. ARGV: limit, window. Returns whether it was accepted, how many are left, and the
# microseconds until one comes back. A log from the future is one from before the clock was set back.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local newest = redis.call('LINDEX', KEYS[1], -1)
if newest and tonumber(newest) > now + 1000000 then redis.call('DEL', KEYS[1]) end
local oldest = redis.call('LINDEX', KEYS[1], 0)
while oldest and tonumber(oldest) <= now - window do
  redis.call('LPOP', KEYS[1])
  oldest = redis.call('LINDEX', KEYS[1], 0)
end
local used = redis.call('LLEN', KEYS[1])
if used >= limit then
  return {0, 0, tonumber(redis.call('LINDEX', KEYS[1], used - limit)) + window - now}
end
redis.call('RPUSH', KEYS[1], string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], window / 1000)
return {1, limit - used - 1, tonumber(oldest or now) + window - now}
"""


class SharedRates:
    """The log in Redis, which all workers share; this process's own while Redis does not answer.

    The own log is kept all the time: what it refuses Redis would refuse too, so that a token far over its limit costs
    no round trip, and a Redis that goes away leaves no gap. The first failure closes Redis off; a task then tries it
    again every second, so that no request waits for a Redis that is down. Requests that come while an answer of Redis
    is awaited go out together, on the one connection.
    """

    def __init__(self, url: str) -> None:
        self._redis = redis.asyncio.Redis.from_url(
            url,
            socket_connect_timeout=REDIS_SECONDS,
            socket_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._own = LocalRates()
        self._script = ""  # its SHA-1, once loaded
        self._waiting: list[_Ask] = []
        self._sender: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None

    async def take(self, token_id: str, limit: int) -> Rate:
        own = self._own.count(token_id, limit)
        if self._probe is not None:
            return own
        ask = _Ask(token_id, limit, asyncio.get_running_loop().create_future())
        self._waiting.append(ask)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        answer = await ask.answer
        if answer is None:
            return own
        accepted, remaining, wait = answer
        if not accepted:
            self._own.give_back(token_id)
            raise _limited(limit, wait / 1_000_000)
        return Rate(limit, remaining, math.ceil(wait / 1_000_000))

    async def close(self) -> None:
        for task in (self._sender, self._probe):
            if task is not None:
                task.cancel()
        await self._redis.aclose()

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            answers: list[list[int]] | list[None]
            try:
                answers = await self._ask(batch)
            except (RedisError, OSError, TimeoutError) as error:
                answers = [None] * len(batch)
                self._close_off(error)
            for ask, answer in zip(batch, answers, strict=True):
                if not ask.answer.done():  # else its client has left
                    ask.answer.set_result(answer)
        self._sender = None

    async def _ask(self, batch: list[_Ask]) -> list[list[int]]:
        if not self._script:
            self._script = await self._redis.script_load(_TAKE)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for ask in batch:
                key = f"strake:rate:{ask.token_id}"
                _ = pipeline.evalsha(self._script, 1, key, ask.limit, WINDOW_SECONDS * 1_000_000)
            answers: list[list[int]] = await pipeline.execute()
        return answers

    def _close_off(self, error: Exception) -> None:
        for ask in self._waiting:
            if not ask.answer.done():
                ask.answer.set_result(None)
        self._waiting = []
        if self._probe is None:
            logger.warning("redis_unavailable kind=%s limits=per_process", type(error).__name__)
            self._probe = asyncio.create_task(self._until_back())

    async def _until_back(self) -> None:
        await self._redis.connection_pool.disconnect()
        while True:
            try:
                # Also after a restart, which forgets scripts.
                self._script = await self._redis.script_load(_TAKE)
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(PROBE_SECONDS)
                continue
            logger.warning("redis_back limits=shared")
            self._probe = None
            return


class _Ask(NamedTuple):
    token_id: str
    limit: int
    answer: asyncio.Future[list[int] | None]


def _limited(limit: int, wait: float) -> RateLimited:
    seconds = max(1, math.ceil(wait))
    return RateLimited(rate=Rate(limit, 0, seconds).headers(), retry_after=seconds)
