"""The connections of the PostgreSQL look-up: few, reused, and kept if the server accepts no more."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from proxy.access import postgresql_connections, postgresql_lookup
from proxy.access.postgresql_connections import MAX_CONNECTIONS, StatementPool, connect_arguments
from proxy.access.postgresql_lookup import MAX_BATCHES, PostgreSQLLookup
from proxy.errors import StoreUnavailable
from strake.database_url import database_config
from tests.support.load import Load, loading
from tests.support.postgres import SUPERUSER, Cluster, cluster
from tests.support.running import Strake
from tests.support.upstream import Upstream, eventually, until

pytestmark = pytest.mark.postgres

NAME = "look-up-under-test"
NOTHING = "SELECT 1 WHERE $1::text IS NULL AND $2::text IS NULL AND $3::text IS NULL"
SLEEP = "SELECT pg_sleep($1::float8)"


def config_of(url: str, **options: str) -> dict[str, Any]:
    config = database_config(url)
    config["OPTIONS"] |= {"application_name": NAME, **options}
    return config


def backends(url: str) -> set[int]:
    """The process ids of the server that serve the look-up."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", [NAME]).fetchall()
    return {pid for (pid,) in rows}


MakeLookup = Callable[..., PostgreSQLLookup]


@pytest.fixture
async def make_lookup(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeLookup]:
    """Creates look-ups whose statement needs no tables, and which find nothing."""
    monkeypatch.setattr(postgresql_lookup, "statement", lambda: NOTHING)
    monkeypatch.setattr(postgresql_connections, "TIMEOUT_SECONDS", 60)
    monkeypatch.setattr(postgresql_lookup, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(postgresql_connections, "CONNECT_PAUSE_SECONDS", 0.1)
    created: list[PostgreSQLLookup] = []

    def make(url: str, **options: str) -> PostgreSQLLookup:
        created.append(PostgreSQLLookup(config_of(url, **options)))
        return created[-1]

    yield make
    for lookup in created:
        await lookup.close()


async def find_many(lookup: PostgreSQLLookup, count: int) -> list[BaseException | object]:
    return await asyncio.gather(*(lookup.find("abcdefghijkl", bytes(32)) for _ in range(count)), return_exceptions=True)


async def ask_many(lookup: PostgreSQLLookup, count: int) -> list[BaseException | object]:
    """Each of these uses a connection, as `origins` and `states` do. Look-ups share one."""
    asking = (lookup._pool.ask(lambda: ("", "", "")) for _ in range(count))
    results: list[BaseException | object] = await asyncio.gather(*asking, return_exceptions=True)
    return results


@contextlib.contextmanager
def filled(url: str) -> Iterator[list[psycopg.Connection]]:
    """Connections that leave no room for another one."""
    with contextlib.ExitStack() as stack:
        connections: list[psycopg.Connection] = []
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                connections.append(stack.enter_context(psycopg.connect(url)))
        yield connections


@pytest.fixture(scope="module")
def small_postgres() -> Iterator[Cluster]:
    """A cluster that accepts 9 connections of ordinary roles."""
    with cluster(max_connections=12) as running:
        yield running


# --- Connections ---------------------------------------------------------------------------------------------------


async def test_one_request_at_a_time_uses_one_connection(make_lookup: MakeLookup, postgres_url: str) -> None:
    lookup = make_lookup(postgres_url)
    await lookup.find("abcdefghijkl", bytes(32))
    first = await asyncio.to_thread(backends, postgres_url)
    for _ in range(100):
        await lookup.find("abcdefghijkl", bytes(32))
    assert len(first) == 1
    assert await asyncio.to_thread(backends, postgres_url) == first


async def test_look_ups_share_two_connections(make_lookup: MakeLookup, postgres_url: str) -> None:
    lookup = make_lookup(postgres_url)
    for _ in range(5):
        assert await find_many(lookup, 100) == [None] * 100
    assert 1 <= len(await asyncio.to_thread(backends, postgres_url)) <= MAX_BATCHES


async def test_queries_share_at_most_eight_connections(make_lookup: MakeLookup, postgres_url: str) -> None:
    lookup = make_lookup(postgres_url)
    assert await ask_many(lookup, 100) == [[]] * 100
    first = await asyncio.to_thread(backends, postgres_url)
    assert 1 < len(first) <= MAX_CONNECTIONS
    for _ in range(5):
        assert await ask_many(lookup, 100) == [[]] * 100
    assert await asyncio.to_thread(backends, postgres_url) == first


async def test_close_closes_every_connection(make_lookup: MakeLookup, postgres_url: str) -> None:
    lookup = make_lookup(postgres_url)
    await ask_many(lookup, 20)
    assert await asyncio.to_thread(backends, postgres_url)
    await lookup.close()
    await asyncio.to_thread(eventually, lambda: not backends(postgres_url))


# --- A full server -------------------------------------------------------------------------------------------------


async def test_full_server_ends_no_connection_that_works(make_lookup: MakeLookup, small_postgres: Cluster) -> None:
    lookup = make_lookup(small_postgres.url)
    await lookup.find("abcdefghijkl", bytes(32))
    superuser_url = small_postgres.url_of("strake", SUPERUSER)
    first = await asyncio.to_thread(backends, superuser_url)
    with filled(small_postgres.url) as others:
        assert len(others) == 8
        for _ in range(5):
            assert await find_many(lookup, 200) == [None] * 200
            assert await ask_many(lookup, 200) == [[]] * 200
        assert await asyncio.to_thread(backends, superuser_url) == first
    async with asyncio.timeout(60):  # until the lookup has noticed that there is room again
        while not first < await asyncio.to_thread(backends, superuser_url):
            assert await ask_many(lookup, 200) == [[]] * 200


async def test_full_server_without_a_connection_is_an_outage(
    make_lookup: MakeLookup, small_postgres: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    lookup = make_lookup(small_postgres.url)
    with filled(small_postgres.url):
        for _ in range(3):
            results = await find_many(lookup, 50)
            assert {type(result) for result in results} == {StoreUnavailable}
    await until(lambda: not lookup._breaker.is_open)
    assert await find_many(lookup, 50) == [None] * 50
    assert caplog.text.count("store_unavailable kind=TooManyConnectionsError") == 1
    assert caplog.text.count("store_back") == 1


@pytest.mark.slow
def test_requests_succeed_while_the_server_is_full(
    run_strake: Callable[..., Strake], upstream: Upstream, small_postgres: Cluster
) -> None:
    strake = run_strake(DATABASE_URL=small_postgres.url, WEB_CONCURRENCY="1")
    endpoint = strake.connect(upstream.url)

    async def some_load() -> Load:
        path = f"{endpoint.path}/v1/models"
        async with loading(strake.address, path, endpoint.token, connections=16) as load:
            await until(lambda: len(load.samples) > 500)
        return load

    assert httpx.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer).status_code == 200
    with filled(small_postgres.url) as others:
        assert others
        load = asyncio.run(some_load())
    assert {sample.status for sample in load.samples} == {200}
    assert "store_unavailable" not in strake.log()


# --- Failures ------------------------------------------------------------------------------------------------------


async def test_server_that_ends_connections_is_an_outage(make_lookup: MakeLookup, postgres_url: str) -> None:
    lookup = make_lookup(postgres_url)
    await ask_many(lookup, 20)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", [NAME])
    await asyncio.to_thread(eventually, lambda: not backends(postgres_url))
    results = await find_many(lookup, 20)
    assert {type(result) for result in results} <= {StoreUnavailable, type(None)}
    await until(lambda: not lookup._breaker.is_open)
    assert await find_many(lookup, 20) == [None] * 20


@pytest.mark.parametrize(
    "options", [{"target_session_attrs": "standby"}, {"sslmode": "verify-full", "sslrootcert": "/dev/null"}]
)
async def test_error_of_asyncpg_itself_is_an_outage(
    options: dict[str, str], make_lookup: MakeLookup, postgres_url: str
) -> None:
    with pytest.raises(StoreUnavailable):
        await make_lookup(postgres_url, **options).find("abcdefghijkl", bytes(32))


async def test_wrong_password_is_an_outage(make_lookup: MakeLookup, postgres_url: str) -> None:
    with pytest.raises(StoreUnavailable):
        await make_lookup(postgres_url.replace("p%40ss", "wrong")).find("abcdefghijkl", bytes(32))


@pytest.fixture
async def sleeping(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StatementPool]:
    """A pool whose statement takes as many seconds as its argument says."""
    monkeypatch.setattr(postgresql_connections, "TIMEOUT_SECONDS", 120)
    pool = StatementPool(SLEEP, connect_arguments(config_of(postgres_url)))
    yield pool
    await pool.close()


async def test_cancelled_queries_free_their_connections(sleeping: StatementPool, postgres_url: str) -> None:
    leaving = [asyncio.create_task(sleeping.ask(lambda: (100.0,))) for _ in range(MAX_CONNECTIONS)]
    await asyncio.to_thread(eventually, lambda: len(backends(postgres_url)) == MAX_CONNECTIONS)
    waiting = [asyncio.create_task(sleeping.ask(lambda: (0.0,))) for _ in range(3 * MAX_CONNECTIONS)]
    await asyncio.sleep(0)
    for task in (*leaving, *waiting[::3]):
        task.cancel()
    staying = [task for task in waiting if not task.cancelling()]
    async with asyncio.timeout(60):
        await asyncio.gather(*staying)
    assert len(await asyncio.to_thread(backends, postgres_url)) <= 2 * MAX_CONNECTIONS  # those that left still sleep
    assert sleeping._size == len(sleeping._idle) <= MAX_CONNECTIONS


async def test_cancelled_waiter_passes_its_connection_on(sleeping: StatementPool) -> None:
    prepared = [await sleeping._acquire() for _ in range(MAX_CONNECTIONS)]
    leaves, stays = (asyncio.create_task(sleeping.ask(lambda: (0.0,))) for _ in range(2))
    await asyncio.sleep(0)
    sleeping._release(prepared[0])
    leaves.cancel()
    async with asyncio.timeout(60):
        await stays
    for one in prepared[1:]:
        sleeping._release(one)
    assert len(sleeping._idle) == sleeping._size == MAX_CONNECTIONS


async def test_failure_reaches_every_waiter(sleeping: StatementPool) -> None:
    prepared = [await sleeping._acquire() for _ in range(MAX_CONNECTIONS)]
    waiting = [asyncio.create_task(sleeping.ask(lambda: (0.0,))) for _ in range(5)]
    await asyncio.sleep(0)
    # As `ask` and `find` do after a query that failed: removing the connection wakes a waiter.
    prepared.pop().connection.terminate()
    sleeping._remove()
    sleeping.fail()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 5
    for one in prepared:
        sleeping._release(one)


async def test_failure_reaches_requests_that_connect(postgres_url: str) -> None:
    """A second attempt would take as long again."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # the kernel accepts, and nobody replies
        arguments = connect_arguments(config_of(postgres_url))[0]
        pool = StatementPool(SLEEP, [arguments | {"port": silent.getsockname()[1], "timeout": 3}])
        connecting = [asyncio.create_task(pool.ask(lambda: (0.0,))) for _ in range(5)]
        await asyncio.sleep(0.1)
        pool.fail()
        results = await asyncio.gather(*connecting, return_exceptions=True)
        assert accepted(silent) == 5
    assert [type(result) for result in results] == [StoreUnavailable] * 5


def accepted(listening: socket.socket) -> int:
    """Accept and close the connections that wait, and return their number."""
    listening.setblocking(False)
    for count in itertools.count():
        try:
            listening.accept()[0].close()
        except BlockingIOError:
            return count
    raise AssertionError
