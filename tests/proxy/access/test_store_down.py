"""A database outage: 503 while it lasts, never 401, no queue, and recovery without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from proxy.access.postgresql_connections import TIMEOUT_SECONDS
from tests.support.load import Load, Sample, loading, percentile
from tests.support.postgres import Cluster, cluster
from tests.support.raw import ask, get
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream, eventually, until

CONNECTIONS = 16
RunStrake = Callable[..., Strake]


def answers(load: Load) -> set[tuple[int, str]]:
    return {(sample.status, sample.error) for sample in load.samples}


async def check_outage(
    strake: Strake, endpoint: Endpoint, begin: Callable[[], object], end: Callable[[], object], *, seconds: float
) -> Load:
    """Send requests before, during and after an outage, and check the responses.

    `seconds` is several times as long as a query may take.
    """
    async with loading(strake.address, f"{endpoint.path}/v1/models", endpoint.token, connections=CONNECTIONS) as load:
        await until(lambda: len(load.samples) > 200)
        out = time.monotonic()
        await asyncio.to_thread(begin)
        gone = time.monotonic()
        await asyncio.sleep(seconds)
        back = time.monotonic()
        await asyncio.to_thread(end)
        up = time.monotonic()
        await until(lambda: [s.status for s in load.samples[-500:] if s.began > up] == [200] * 500, what="recovery")

    assert set(statuses(load.between(0, out))) == {200}
    # Only the provider's response or the store's error. Never 401, never a closed connection.
    assert answers(load) == {(200, ""), (503, "store_unavailable")}
    assert all(sample.headers["retry-after"] == "1" for sample in load.samples if sample.status == 503)
    refused = [sample for sample in load.between(gone, back) if sample.status == 503]
    # Without the circuit breaker, each would wait for a query that times out.
    assert len(refused) > 100
    assert percentile(refused, 0.9) < TIMEOUT_SECONDS, "nobody waits in a queue"
    assert not [sample for sample in load.samples if sample.began < gone and sample.ended > back]
    return load


def statuses(samples: list[Sample]) -> list[int]:
    return [sample.status for sample in samples]


def locked_for_everybody(database: Path) -> sqlite3.Connection:
    """Open a connection that excludes even readers, as tools for repair and restore do."""
    connection = sqlite3.connect(database, timeout=10, isolation_level=None)
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def test_exclusive_sqlite_lock_is_an_outage(migrated_home: Path, upstream: Upstream) -> None:
    """Nobody gets such a lock while a connection is open, so there is no web half, and the worker finds the lock."""
    with Strake(migrated_home, command=("manage.py", "serve", "--only=proxy", "--no-link")) as strake:
        endpoint = strake.connect(upstream.url)
        strake.hang_up()
        os.kill(strake.pid, signal.SIGSTOP)  # the master process, which would start another worker
        worker = strake.workers[0]
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2])
        lock = locked_for_everybody(database_of(strake))
        os.kill(strake.pid, signal.SIGCONT)
        eventually(lambda: ask(strake.address, get(endpoint, "/v1/models")).status == 503, what="an outage")
        load = asyncio.run(some_load(strake, endpoint))
        assert answers(load) == {(503, "store_unavailable")}
        assert {sample.headers["retry-after"] for sample in load.samples} == {"1"}
        assert max(sample.seconds for sample in load.samples) < 5, "nobody waits for SQLite, which is patient for 10 s"
        lock.close()
        eventually_200(strake, endpoint)
        load = asyncio.run(some_load(strake, endpoint))
        assert answers(load) == {(200, "")}
    assert (strake.log().count("store_unavailable"), strake.log().count("store_back")) == (1, 1)


def test_open_sqlite_write_transaction_delays_nothing(run_strake: RunStrake, upstream: Upstream) -> None:
    strake = run_strake()
    endpoint = strake.connect(upstream.url)
    with contextlib.closing(sqlite3.connect(database_of(strake), timeout=10, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        load = asyncio.run(some_load(strake, endpoint))
    assert answers(load) == {(200, "")}


def test_missing_sqlite_file_is_an_outage(run_strake: RunStrake, upstream: Upstream) -> None:
    strake = run_strake()
    endpoint = strake.connect(upstream.url)
    strake.hang_up()
    database = database_of(strake)
    away = database.with_suffix(".away")
    database.rename(away)
    os.kill(strake.workers[0], signal.SIGKILL)  # the file is open in it
    eventually(lambda: ask(strake.address, get(endpoint, "/v1/models")).status == 503, what="an outage")
    load = asyncio.run(some_load(strake, endpoint))
    assert answers(load) == {(503, "store_unavailable")}


def test_disk_that_is_full_before_the_first_request(migrated_home: Path, upstream: Upstream) -> None:
    """A limit on the size of files fails as a full disk does. Nobody else has the database open."""
    with Strake(migrated_home, command=("manage.py", "serve", "--only=proxy", "--no-link")) as strake:
        endpoint = strake.connect(upstream.url)
        strake.hang_up()
        for worker in strake.workers:
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        response = ask(strake.address, get(endpoint, "/v1/models"))
        assert response.status == 200


def database_of(strake: Strake) -> Path:
    [database] = strake.home.glob("data/*.sqlite3")
    return database


async def some_load(strake: Strake, endpoint: Endpoint) -> Load:
    async with loading(strake.address, f"{endpoint.path}/v1/models", endpoint.token, connections=CONNECTIONS) as load:
        await until(lambda: len(load.samples) > 300)
    return load


def eventually_200(strake: Strake, endpoint: Endpoint) -> None:
    eventually(lambda: ask(strake.address, get(endpoint, "/v1/models")).status == 200, what="recovery")


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Cluster]:
    """A separate server, since tests stop it. It loses nothing that was committed."""
    with cluster(synchronous_commit="on") as running:
        yield running


@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.parametrize("how", ["restarted", "frozen"])
def test_postgresql_outage(how: str, own_postgres: Cluster, run_strake: RunStrake, upstream: Upstream) -> None:
    begin, end = {
        "restarted": (own_postgres.stop, own_postgres.start),
        "frozen": (own_postgres.freeze, own_postgres.thaw),
    }[how]
    own_postgres.create_migrated(how)
    strake = run_strake(DATABASE_URL=own_postgres.url_of(how))
    endpoint = strake.connect(upstream.url)
    load = asyncio.run(check_outage(strake, endpoint, begin, end, seconds=4 * TIMEOUT_SECONDS))
    assert strake.log().count("store_unavailable") <= 8, "once per outage and worker, not once per request"
    eventually(lambda: "store_back" in strake.log())
    # Afterwards its owner sees how often the outage has refused the token.
    refused = sum(sample.error == "store_unavailable" for sample in load.samples)
    counted = "SELECT sum(count) FROM proxy_refusalcount WHERE code = 'store_unavailable' AND token_id = %s"
    with psycopg.connect(own_postgres.url_of(how), autocommit=True) as connection:
        eventually(lambda: (_one(connection.execute(counted, [endpoint.token_id])) or 0) >= refused * 0.9)


def _one(cursor: psycopg.Cursor) -> int | None:
    row = cursor.fetchone()
    return row[0] if row else None
