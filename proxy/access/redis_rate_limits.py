"""The log of requests per token in Redis, shared by all workers."""

from __future__ import annotations

import asyncio
import math
from typing import NamedTuple

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from proxy.access.circuit_breaker import CircuitBreaker
from proxy.access.rate_limits import WINDOW_SECONDS, LocalRateLimits, Rate, rate_limited

# Redis replies in a millisecond. The rest is for a busy worker to read the reply. One request waits this long during an
# outage, not every request.
REDIS_SECONDS = 0.5
PROBE_SECONDS = 1.0
MAX_BATCH = 200
_PROBE = "probe"  # in the place of a token's id

# A script, so that the workers' steps do not interleave. KEYS: for each request the log of its token, oldest first, in
# microseconds of Redis's clock. ARGV: the window, and for each request its limit. Returns for each whether it was
# accepted, how many requests remain, and the microseconds until one more is available. If the clock was set back, a log
# would lie in the future: it is deleted.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local window = tonumber(ARGV[1])
local replies = {}
for number, key in ipairs(KEYS) do
  local limit = tonumber(ARGV[number + 1])
  local newest = redis.call('LINDEX', key, -1)
  if newest and tonumber(newest) > now + 1000000 then redis.call('DEL', key) end
  local oldest = redis.call('LINDEX', key, 0)
  while oldest and tonumber(oldest) <= now - window do
    redis.call('LPOP', key)
    oldest = redis.call('LINDEX', key, 0)
  end
  local used = redis.call('LLEN', key)
  if used >= limit then
    replies[number] = {0, 0, tonumber(redis.call('LINDEX', key, used - limit)) + window - now}
  else
    redis.call('RPUSH', key, string.format('%.0f', now))
    redis.call('PEXPIRE', key, window / 1000)
    replies[number] = {1, limit - used - 1, tonumber(oldest or now) + window - now}
  end
end
return replies
"""


class RedisRateLimits:
    """Keeps the log in Redis, shared by all workers. During an outage, keeps it in this process.

    The local log is kept at all times. It refuses only requests that Redis would refuse too, so a token far over its
    limit costs no round trip, and its counts go on when Redis fails. Requests that arrive while a reply is awaited are
    sent together, on one connection.
    """

    def __init__(self, url: str) -> None:
        self._redis = redis.asyncio.Redis.from_url(
            url,
            socket_connect_timeout=REDIS_SECONDS,
            socket_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._local = LocalRateLimits()
        self._script_sha = ""  # empty until the script is loaded
        self._pending: list[_Take] = []
        self._sender: asyncio.Task[None] | None = None
        self._breaker = CircuitBreaker("redis", self._probe, PROBE_SECONDS)

    async def take(self, token_id: str, limit: int) -> Rate:
        local_rate = self._local.count(token_id, limit)
        if self._breaker.is_open:
            return local_rate
        take = _Take(token_id, limit, asyncio.get_running_loop().create_future())
        self._pending.append(take)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        reply = await take.reply
        if reply is None:
            return local_rate
        accepted, remaining, wait = reply
        if not accepted:
            self._local.undo(token_id)
            raise rate_limited(limit, wait / 1_000_000)
        return Rate(limit, remaining, math.ceil(wait / 1_000_000))

    async def close(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
        self._breaker.stop()
        await self._redis.aclose()

    async def _send(self) -> None:
        while self._pending:
            batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            replies: list[list[int]] | list[None]
            try:
                replies = await self._execute(batch)
            except (RedisError, OSError) as error:
                self._breaker.trip(error)
                batch, self._pending = batch + self._pending, []
                replies = [None] * len(batch)
            for take, reply in zip(batch, replies, strict=True):
                if not take.reply.done():  # else its client left
                    take.reply.set_result(reply)
        self._sender = None

    async def _execute(self, batch: list[_Take]) -> list[list[int]]:
        if not self._script_sha:
            self._script_sha = await self._redis.script_load(_TAKE)
        keys = [f"strake:rate:{take.token_id}" for take in batch]
        limits = [take.limit for take in batch]
        # One command for all: the client takes longer to write a command than to read the replies.
        replies: list[list[int]] = await self._redis.evalsha(
            self._script_sha, len(keys), *keys, WINDOW_SECONDS * 1_000_000, *limits
        )
        return replies

    async def _probe(self) -> None:
        """Connect anew, load the script, which a restart of Redis removes, and run it: a full Redis refuses that."""
        await self._redis.connection_pool.disconnect()
        self._script_sha = await self._redis.script_load(_TAKE)
        await self._execute([_Take(_PROBE, 2**31, asyncio.get_running_loop().create_future())])


class _Take(NamedTuple):
    """A request that is to be counted. The reply is the script's, or None if Redis is down."""

    token_id: str
    limit: int
    reply: asyncio.Future[list[int] | None]
