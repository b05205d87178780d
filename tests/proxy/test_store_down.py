"""A store that does not answer: 503 for that moment, never 401, nobody piles up, and no restart is needed."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.load import Load, loading, percentile
from tests.postgres import Cluster, cluster, programs
from tests.running import Endpoint, Strake
from tests.upstream import Upstream, eventually

CONNECTIONS = 16
RunStrake = Callable[..., Strake]


def answers(load: Load) -> set[tuple[int, str]]:
    return {(sample.status, sample.error) for sample in load.samples}


async def check_outage(
    strake: Strake, endpoint: Endpoint, begin: Callable[[], object], end: Callable[[], object], *, seconds: float
) -> Load:
    """Load, an outage, and what must hold before, during and after it."""
    async with loading(strake.address, f"{endpoint.path}/v1/models", endpoint.token, connections=CONNECTIONS) as load:
        await asyncio.sleep(1)
        out = time.monotonic()
        await asyncio.to_thread(begin)
        gone = time.monotonic()
        await asyncio.sleep(seconds)
        back = time.monotonic()
        await asyncio.to_thread(end)
        up = time.monotonic()
        await asyncio.sleep(3)
        finish = time.monotonic()

    before, after = load.between(0, out), load.between(up + 1.5, finish)
    assert {sample.status for sample in before} == {200}
    assert {sample.status for sample in after} == {200}, "no recovery"
    assert len(after) > 50
    # Whatever the moment: an answer of the provider, or the truth about the store. Never 401, never a cut connection.
    assert answers(load) == {(200, ""), (503, "store_unavailable")}
    assert all(sample.headers["retry-after"] == "1" for sample in load.samples if sample.status == 503)
    refused = [sample for sample in load.between(gone, back) if sample.status == 503]
    assert len(refused) > 100, "refusals are cheap"
    assert percentile(refused, 0.9) < 0.3, "nobody waits in a queue"
    assert max(sample.seconds for sample in load.samples) < 4
    return load


def locked_for_everybody(database: Path) -> sqlite3.Connection:
    """A connection that lets no other one in, not even to read, as a tool that repairs or restores has it."""
    connection = sqlite3.connect(database, timeout=10, isolation_level=None)
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def test_sqlite_locked_for_everybody(run_strake: RunStrake, upstream: Upstream) -> None:
    strake = run_strake()
    endpoint = strake.connect(upstream.url)
    strake.hang_up()
    lock = locked_for_everybody(database_of(strake))
    load = asyncio.run(some_load(strake, endpoint))
    assert answers(load) == {(503, "store_unavailable")}
    assert {sample.headers["retry-after"] for sample in load.samples} == {"1"}
    assert len(load.samples) > 100
    assert percentile(load.samples, 0.99) < 0.3
    lock.close()
    time.sleep(0.5)
    load = asyncio.run(some_load(strake, endpoint))
    assert answers(load) == {(200, "")}
    assert (strake.log().count("store_unavailable"), strake.log().count("store_back")) == (1, 1)


def test_sqlite_with_a_writer_that_does_not_end(run_strake: RunStrake, upstream: Upstream) -> None:
    strake = run_strake()
    endpoint = strake.connect(upstream.url)
    with contextlib.closing(sqlite3.connect(database_of(strake), timeout=10, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        load = asyncio.run(some_load(strake, endpoint))
    assert answers(load) == {(200, "")}


def test_a_sqlite_file_that_is_missing_is_an_outage_and_is_not_made_anew(
    run_strake: RunStrake, upstream: Upstream
) -> None:
    strake = run_strake()
    endpoint = strake.connect(upstream.url)
    strake.hang_up()
    database = database_of(strake)
    away = database.with_suffix(".away")
    database.rename(away)  # before the worker has opened it for the first time
    load = asyncio.run(some_load(strake, endpoint))
    assert answers(load) == {(503, "store_unavailable")}
    away.rename(database)
    time.sleep(0.5)
    load = asyncio.run(some_load(strake, endpoint))
    assert answers(load) == {(200, "")}


def database_of(strake: Strake) -> Path:
    [database] = strake.home.glob("*.sqlite3")
    return database


async def some_load(strake: Strake, endpoint: Endpoint) -> Load:
    async with loading(strake.address, f"{endpoint.path}/v1/models", endpoint.token, connections=CONNECTIONS) as load:
        await asyncio.sleep(1)
    return load


@pytest.fixture
def own_postgres(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A whole server, since this one is going to be stopped. Not under pytest's own folder, which is root's alone."""
    assert programs() is not None, "PostgreSQL's server programs are not installed: apt-get install postgresql"
    with tempfile.TemporaryDirectory(prefix="strake-postgres-") as folder:
        Path(folder).chmod(0o755)
        with cluster(Path(folder) / "data") as made:
            yield made


@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.parametrize("how", ["restarted", "frozen"])
def test_postgresql_away(how: str, run_strake: RunStrake, upstream: Upstream, own_postgres: Cluster) -> None:
    begin, end = {
        "restarted": (own_postgres.stop, own_postgres.start),
        "frozen": (own_postgres.freeze, own_postgres.thaw),
    }[how]
    strake = run_strake(DATABASE_URL=own_postgres.url)
    endpoint = strake.connect(upstream.url)
    asyncio.run(check_outage(strake, endpoint, begin, end, seconds=4))
    assert strake.log().count("store_unavailable") <= 8, "once per outage and worker, not once per request"
    eventually(lambda: "store_back" in strake.log())
