"""Rate limits are exact in any minute, in one process and through Redis, and no Redis outage delays requests."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from urllib.parse import urlsplit

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from proxy.access import rate_limits, redis_rate_limits
from proxy.access.rate_limits import LocalRateLimits, RateLimits
from proxy.access.redis_rate_limits import RedisRateLimits
from proxy.errors import RateLimited
from tests.support.services import free_port, wait_for_port
from tests.support.upstream import until


class Clock:
    """Stands in for `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate_limits, "monotonic", clock)
    return clock


def accepts(counter: LocalRateLimits, limit: int, token_id: str = "ctok_a") -> bool:
    try:
        counter.count(token_id, limit)
    except RateLimited:
        return False
    return True


# --- In one process ------------------------------------------------------------------------------------------------


def test_limit_may_be_used_at_once(clock: Clock) -> None:
    counter = LocalRateLimits()
    assert [accepts(counter, 5) for _ in range(8)] == [True] * 5 + [False] * 3
    clock.now += 59.9
    assert not accepts(counter, 5)
    clock.now += 0.1
    assert [accepts(counter, 5) for _ in range(6)] == [True] * 5 + [False]


@given(
    limit=st.integers(1, 8),
    pauses=st.lists(st.floats(0, 40, allow_nan=False), min_size=1, max_size=80),
)
def test_limit_is_exact_in_any_minute(limit: int, pauses: list[float]) -> None:
    counter, clock, accepted = LocalRateLimits(), Clock(), list[float]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rate_limits, "monotonic", clock)
        for pause in pauses:
            clock.now += pause
            recent = sum(at > clock.now - 60 for at in accepted)
            assert accepts(counter, limit) == (recent < limit)
            if recent < limit:
                accepted.append(clock.now)


def test_request_is_accepted_after_retry_after(clock: Clock) -> None:
    counter = LocalRateLimits()
    for _ in range(3):
        accepts(counter, 3)
        clock.now += 7
    with pytest.raises(RateLimited) as refused:
        counter.count("ctok_a", 3)
    assert refused.value.retry_after == 39
    clock.now += 39
    assert [accepts(counter, 3), accepts(counter, 3)] == [True, False]


def test_tokens_are_counted_separately(clock: Clock) -> None:
    counter = LocalRateLimits()
    assert accepts(counter, 1, "ctok_a")
    assert not accepts(counter, 1, "ctok_a")
    assert accepts(counter, 1, "ctok_b")


def test_rate_headers(clock: Clock) -> None:
    counter = LocalRateLimits()
    counter.count("ctok_a", 10)
    clock.now += 20.5
    rate = counter.count("ctok_a", 10)
    assert dict(rate.headers()) == {
        b"ratelimit-limit": b"10",
        b"ratelimit-remaining": b"8",
        b"ratelimit-reset": b"40",
        b"ratelimit-policy": b"10;w=60",
    }


def test_idle_tokens_are_removed(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_TOKENS", 100)
    counter = LocalRateLimits()
    for number in range(1000):
        accepts(counter, 5, f"ctok_{number}")
        clock.now += 1
    assert len(counter._logs) <= 100


# --- Through Redis -------------------------------------------------------------------------------------------------


@pytest.fixture
async def workers(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[RedisRateLimits]]:
    """The limits of four worker processes, which share one Redis and give it time to reply."""
    monkeypatch.setattr(redis_rate_limits, "REDIS_SECONDS", 30)
    workers = [RedisRateLimits(redis_url) for _ in range(4)]
    yield workers
    for worker in workers:
        await worker.close()


async def count_accepted(counters: Sequence[RateLimits], requests: int, limit: int, token_id: str = "ctok_a") -> int:
    results = await asyncio.gather(
        *(counters[number % len(counters)].take(token_id, limit) for number in range(requests)),
        return_exceptions=True,
    )
    assert all(not isinstance(result, BaseException) or isinstance(result, RateLimited) for result in results)
    return sum(not isinstance(result, BaseException) for result in results)


@pytest.mark.redis
@pytest.mark.parametrize("limit", [1, 37, 500])
async def test_workers_together_accept_exactly_the_limit(workers: list[RedisRateLimits], limit: int) -> None:
    assert await count_accepted(workers, 800, limit) == limit
    assert await count_accepted(workers, 100, limit) == 0
    assert await count_accepted(workers, 100, limit, "ctok_b") == min(limit, 100)


@pytest.mark.redis
async def test_redis_request_is_accepted_after_retry_after(workers: list[RedisRateLimits], redis_url: str) -> None:
    assert await count_accepted(workers, 4, 4) == 4
    with redis.Redis.from_url(redis_url) as client:
        # The oldest request was 57.5 s ago, the others 20 s ago.
        now = time.time()
        due = now - 57.5 + rate_limits.WINDOW_SECONDS
        client.delete("strake:rate:ctok_b")
        client.rpush("strake:rate:ctok_b", *(int((now - ago) * 1_000_000) for ago in (57.5, 20, 20, 20)))
    for worker in workers:
        with pytest.raises(RateLimited) as refused:
            await worker.take("ctok_b", 4)
        assert refused.value.retry_after is not None
        assert math.ceil(due - time.time()) <= refused.value.retry_after <= 3
        assert (b"ratelimit-remaining", b"0") in refused.value.headers()
    await asyncio.sleep(max(0.0, due - time.time()) + 0.1)
    assert await count_accepted(workers, 8, 4, "ctok_b") == 1


@pytest.mark.redis
async def test_log_in_the_future_is_deleted(workers: list[RedisRateLimits], redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.rpush("strake:rate:ctok_a", *[int((time.time() + 3600) * 1_000_000)] * 4)
    assert await count_accepted(workers, 8, 4) == 4


@pytest.mark.redis
async def test_redis_keys_expire_after_a_minute(workers: list[RedisRateLimits], redis_url: str) -> None:
    await count_accepted(workers, 4, 4)
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys() == [b"strake:rate:ctok_a"]
        assert 30_000 < client.pttl("strake:rate:ctok_a") <= 60_000


@pytest.mark.redis
async def test_script_is_loaded_once(workers: list[RedisRateLimits], redis_url: str) -> None:
    await count_accepted(workers, 400, 1000)
    with redis.Redis.from_url(redis_url) as client:
        statistics = client.info("commandstats")
        connections = client.info("stats")["total_connections_received"]
    assert statistics["cmdstat_evalsha"]["calls"] < 200, "requests that wait together are one command"
    assert "cmdstat_eval" not in statistics
    assert statistics["cmdstat_script|load"]["calls"] == len(workers)
    assert connections <= len(workers) + 2  # one each, and those of wait_for_port and this test


# --- Without Redis -------------------------------------------------------------------------------------------------


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list for servers that a test starts, which are stopped afterwards."""
    servers: list[subprocess.Popen[bytes]] = []
    yield servers
    for server in servers:
        server.kill()
        server.wait(60)


Shared = Callable[[int], RedisRateLimits]


@pytest.fixture
async def shared() -> AsyncIterator[Shared]:
    """Creates the limits of a worker process, for a Redis on a port."""
    made: list[RedisRateLimits] = []

    def make(port: int) -> RedisRateLimits:
        made.append(RedisRateLimits(f"redis://127.0.0.1:{port}/0"))
        return made[-1]

    yield make
    for counter in made:
        await counter.close()


def start_redis(port: int) -> subprocess.Popen[bytes]:
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL, cwd="/tmp")
    wait_for_port(port)
    return server


def waits_for_nothing(counter: RateLimits) -> bool:
    """Take a request without an event loop, so that it can wait for no reply."""
    call = counter.take("ctok_y", 10)
    try:
        call.send(None)
    except StopIteration:
        return True
    call.close()
    return False


@pytest.mark.redis
async def test_flushed_script_is_loaded_again(workers: list[RedisRateLimits], redis_url: str) -> None:
    assert await count_accepted(workers, 20, 6) == 6
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
    for worker in workers:
        await worker.take("ctok_x", 10)  # counted locally while the script is loaded
    await until(lambda: not any(worker._breaker.is_open for worker in workers))
    assert await count_accepted(workers, 20, 6, "ctok_new") == 6


@pytest.mark.redis
async def test_cancelled_request_delays_no_other(workers: list[RedisRateLimits]) -> None:
    leaving = [asyncio.create_task(workers[0].take("ctok_a", 1000)) for _ in range(50)]
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    assert await count_accepted(workers, 20, 6, "ctok_b") == 6


@pytest.mark.redis
async def test_limits_are_local_during_a_redis_outage(
    own_redis: list[subprocess.Popen[bytes]], shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_rate_limits, "REDIS_SECONDS", 30)
    monkeypatch.setattr(redis_rate_limits, "PROBE_SECONDS", 0.1)
    port = free_port()
    own_redis.append(start_redis(port))
    one, other = shared(port), shared(port)
    for _ in range(3):
        await one.take("ctok_a", 6)
        await other.take("ctok_a", 6)
    assert await count_accepted([one, other], 20, 6) == 0
    own_redis[0].kill()
    own_redis[0].wait(60)
    # Local counts go on: three of the six requests were of this process.
    assert await count_accepted([one], 20, 6) == 3
    assert waits_for_nothing(one)
    own_redis.append(start_redis(port))
    for counter in (one, other):
        await counter.take("ctok_x", 10)  # the other one notices the outage only now
    await until(lambda: not (one._breaker.is_open or other._breaker.is_open))
    assert await count_accepted([one, other], 20, 6, "ctok_new") == 6


@pytest.mark.redis
async def test_hanging_redis_delays_one_batch(
    own_redis: list[subprocess.Popen[bytes]], shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_rate_limits, "REDIS_SECONDS", 5)
    port = free_port()
    own_redis.append(start_redis(port))
    counter = shared(port)
    await counter.take("ctok_a", 10)
    os.kill(own_redis[0].pid, signal.SIGSTOP)
    started = time.perf_counter()
    assert await count_accepted([counter], 500, 50) == 49
    assert time.perf_counter() - started < 2 * redis_rate_limits.REDIS_SECONDS
    assert waits_for_nothing(counter)


async def test_missing_redis_refuses_no_request(shared: Shared) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused
        assert await count_accepted([shared(closed.getsockname()[1])], 100, 30) == 30


async def test_redis_url_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    url = f"redis://user:s3cret-word@127.0.0.1:{free_port()}/0"
    counter = RedisRateLimits(url)
    await counter.take("ctok_a", 10)
    await counter.close()
    assert "redis_unavailable" in caplog.text
    assert "s3cret-word" not in caplog.text
    assert str(urlsplit(url).port) not in caplog.text


@pytest.mark.redis
async def test_full_redis_is_one_outage(
    own_redis: list[subprocess.Popen[bytes]],
    shared: Shared,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It still replies, and runs scripts that only read."""
    monkeypatch.setattr(redis_rate_limits, "PROBE_SECONDS", 0.02)
    port = free_port()
    own_redis.append(start_redis(port))
    counter = shared(port)
    await counter.take("ctok_a", 1000)
    async with redis.asyncio.Redis(port=port) as client:
        await client.config_set("maxmemory", "1")
        for _ in range(50):
            await counter.take("ctok_a", 1000)
            await asyncio.sleep(0.01)
        assert counter._breaker.is_open
        assert len(caplog.messages) == 1
        await client.config_set("maxmemory", "0")
    await until(lambda: not counter._breaker.is_open)
    assert [message.partition(" ")[0] for message in caplog.messages] == ["redis_unavailable", "redis_back"]
