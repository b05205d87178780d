"""Requests per minute: never more than the limit in any minute, whoever counts, and Redis never in the way."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from urllib.parse import urlsplit

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from proxy import rates
from proxy.errors import RateLimited
from proxy.rates import LocalRates, Rates, SharedRates
from tests.conftest import free_port, wait_for_port


class Clock:
    """Stands in for `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rates, "monotonic", clock)
    return clock


def accepts(counter: LocalRates, limit: int, token_id: str = "ctok_a") -> bool:
    try:
        counter.count(token_id, limit)
    except RateLimited:
        return False
    return True


# --- In one process ------------------------------------------------------------------------------------------------


def test_the_limit_is_accepted_at_once_and_not_one_more_for_a_minute(clock: Clock) -> None:
    counter = LocalRates()
    assert [accepts(counter, 5) for _ in range(8)] == [True] * 5 + [False] * 3
    clock.now += 59.9
    assert not accepts(counter, 5)
    clock.now += 0.1
    assert [accepts(counter, 5) for _ in range(6)] == [True] * 5 + [False]


@given(
    limit=st.integers(1, 8),
    pauses=st.lists(st.floats(0, 40, allow_nan=False), min_size=1, max_size=80),
)
def test_no_minute_holds_more_than_the_limit_and_nothing_is_refused_below_it(limit: int, pauses: list[float]) -> None:
    counter, clock, accepted = LocalRates(), Clock(), list[float]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates, "monotonic", clock)
        for pause in pauses:
            clock.now += pause
            recent = sum(at > clock.now - 60 for at in accepted)
            assert accepts(counter, limit) == (recent < limit)
            if recent < limit:
                accepted.append(clock.now)


def test_after_the_time_of_retry_after_one_request_is_accepted(clock: Clock) -> None:
    counter = LocalRates()
    for _ in range(3):
        accepts(counter, 3)
        clock.now += 7
    with pytest.raises(RateLimited) as refused:
        counter.count("ctok_a", 3)
    assert refused.value.retry_after == 39
    clock.now += 39
    assert [accepts(counter, 3), accepts(counter, 3)] == [True, False]


def test_tokens_are_counted_apart(clock: Clock) -> None:
    counter = LocalRates()
    assert accepts(counter, 1, "ctok_a")
    assert not accepts(counter, 1, "ctok_a")
    assert accepts(counter, 1, "ctok_b")


def test_what_is_left_is_told(clock: Clock) -> None:
    counter = LocalRates()
    counter.count("ctok_a", 10)
    clock.now += 20.5
    rate = counter.count("ctok_a", 10)
    assert dict(rate.headers()) == {
        b"ratelimit-limit": b"10",
        b"ratelimit-remaining": b"8",
        b"ratelimit-reset": b"40",
        b"ratelimit-policy": b"10;w=60",
    }


def test_tokens_that_are_silent_are_forgotten(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST_TOKENS", 100)
    counter = LocalRates()
    for number in range(1000):
        accepts(counter, 5, f"ctok_{number}")
        clock.now += 1
    assert len(counter._logs) <= 100


# --- Through Redis -------------------------------------------------------------------------------------------------


@pytest.fixture
async def workers(redis_url: str) -> AsyncIterator[list[SharedRates]]:
    """What four worker processes have: clients of their own of the same Redis."""
    workers = [SharedRates(redis_url) for _ in range(4)]
    yield workers
    for worker in workers:
        await worker.close()


async def count_accepted(counters: list[Rates], requests: int, limit: int, token_id: str = "ctok_a") -> int:
    results = await asyncio.gather(
        *(counters[number % len(counters)].take(token_id, limit) for number in range(requests)),
        return_exceptions=True,
    )
    assert all(not isinstance(result, BaseException) or isinstance(result, RateLimited) for result in results)
    return sum(not isinstance(result, BaseException) for result in results)


@pytest.mark.redis
@pytest.mark.parametrize("limit", [1, 37, 500])
async def test_workers_together_accept_exactly_the_limit(workers: list[SharedRates], limit: int) -> None:
    assert await count_accepted(workers, 800, limit) == limit
    assert await count_accepted(workers, 100, limit) == 0
    assert await count_accepted(workers, 100, limit, "ctok_b") == min(limit, 100)


@pytest.mark.redis
async def test_a_refusal_tells_when_the_next_request_is_accepted(workers: list[SharedRates], redis_url: str) -> None:
    assert await count_accepted(workers, 4, 4) == 4
    with redis.Redis.from_url(redis_url) as client:
        # As if the oldest request had come 57.5 s ago, and the others 20 s ago.
        now = time.time()
        client.delete("strake:rate:ctok_b")
        client.rpush("strake:rate:ctok_b", *(int((now - ago) * 1_000_000) for ago in (57.5, 20, 20, 20)))
    for worker in workers:
        with pytest.raises(RateLimited) as refused:
            await worker.take("ctok_b", 4)
        assert refused.value.retry_after == 3
        assert (b"ratelimit-remaining", b"0") in refused.value.headers()
    await asyncio.sleep(2.6)
    assert await count_accepted(workers, 8, 4, "ctok_b") == 1


@pytest.mark.redis
async def test_a_log_from_before_the_clock_was_set_back_locks_nobody_out(
    workers: list[SharedRates], redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.rpush("strake:rate:ctok_a", *[int((time.time() + 3600) * 1_000_000)] * 4)
    assert await count_accepted(workers, 8, 4) == 4


@pytest.mark.redis
async def test_nothing_is_left_in_redis_a_minute_later(workers: list[SharedRates], redis_url: str) -> None:
    await count_accepted(workers, 4, 4)
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys() == [b"strake:rate:ctok_a"]
        assert 59_000 < client.pttl("strake:rate:ctok_a") <= 60_000


@pytest.mark.redis
async def test_the_script_is_loaded_once(workers: list[SharedRates], redis_url: str) -> None:
    await count_accepted(workers, 400, 1000)
    with redis.Redis.from_url(redis_url) as client:
        statistics = client.info("commandstats")
        connections = client.info("stats")["total_connections_received"]
    assert statistics["cmdstat_evalsha"]["calls"] >= 400
    assert "cmdstat_eval" not in statistics
    assert statistics["cmdstat_script|load"]["calls"] == len(workers)
    assert connections <= len(workers) + 2  # one each, wait_for_port's and this test's own


# --- Without Redis -------------------------------------------------------------------------------------------------


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list for servers that a test starts itself; they are ended afterwards."""
    servers: list[subprocess.Popen[bytes]] = []
    yield servers
    for server in servers:
        server.kill()
        server.wait(10)


Shared = Callable[[int], SharedRates]


@pytest.fixture
async def shared() -> AsyncIterator[Shared]:
    """Makes what a worker process has, for a Redis on some port."""
    made: list[SharedRates] = []

    def make(port: int) -> SharedRates:
        made.append(SharedRates(f"redis://127.0.0.1:{port}/0"))
        return made[-1]

    yield make
    for counter in made:
        await counter.close()


def start_redis(port: int) -> subprocess.Popen[bytes]:
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL, cwd="/tmp")
    wait_for_port(port)
    return server


async def seconds_per_call(counter: Rates, calls: int) -> float:
    started = time.perf_counter()
    for number in range(calls):
        await counter.take(f"ctok_{number}", 10)
    return (time.perf_counter() - started) / calls


@pytest.mark.redis
async def test_a_flushed_script_is_loaded_again(workers: list[SharedRates], redis_url: str) -> None:
    assert await count_accepted(workers, 20, 6) == 6
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
    for worker in workers:
        await worker.take("ctok_x", 10)  # on its own, while the script is loaded
    await asyncio.sleep(0.3)
    assert await count_accepted(workers, 20, 6, "ctok_new") == 6


@pytest.mark.redis
async def test_a_client_that_leaves_holds_nobody_up(workers: list[SharedRates]) -> None:
    leaving = [asyncio.create_task(workers[0].take("ctok_a", 1000)) for _ in range(50)]
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    assert await count_accepted(workers, 20, 6, "ctok_b") == 6


@pytest.mark.redis
async def test_redis_gone_leaves_limits_per_process_at_no_cost_and_comes_back_by_itself(
    own_redis: list[subprocess.Popen[bytes]], shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "PROBE_SECONDS", 0.1)
    port = free_port()
    own_redis.append(start_redis(port))
    one, other = shared(port), shared(port)
    for _ in range(3):
        await one.take("ctok_a", 6)
        await other.take("ctok_a", 6)
    assert await count_accepted([one, other], 20, 6) == 0
    own_redis[0].kill()
    own_redis[0].wait(10)
    # What this process has accepted counts on: three of the six were its own.
    assert await count_accepted([one], 20, 6) == 3
    assert await seconds_per_call(one, 1000) < 0.000_5
    own_redis.append(start_redis(port))
    for counter in (one, other):
        await counter.take("ctok_x", 10)  # the other one has not noticed yet
    await asyncio.sleep(0.5)
    assert await count_accepted([one, other], 20, 6, "ctok_new") == 6


@pytest.mark.redis
async def test_redis_that_hangs_is_waited_for_once(own_redis: list[subprocess.Popen[bytes]], shared: Shared) -> None:
    port = free_port()
    own_redis.append(start_redis(port))
    counter = shared(port)
    await counter.take("ctok_a", 10)
    os.kill(own_redis[0].pid, signal.SIGSTOP)
    started = time.perf_counter()
    assert await count_accepted([counter], 500, 50) == 49
    assert time.perf_counter() - started < 2 * rates.REDIS_SECONDS
    assert await seconds_per_call(counter, 1000) < 0.000_5


async def test_redis_that_was_never_there_stops_nothing(shared: Shared) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused
        assert await count_accepted([shared(closed.getsockname()[1])], 100, 30) == 30


async def test_nothing_of_the_redis_url_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    url = f"redis://user:s3cret-word@127.0.0.1:{free_port()}/0"
    counter = SharedRates(url)
    await counter.take("ctok_a", 10)
    await counter.close()
    assert "redis_unavailable" in caplog.text
    assert "s3cret-word" not in caplog.text
    assert str(urlsplit(url).port) not in caplog.text
