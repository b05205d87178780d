"""Requests and commands behind PgBouncer in transaction mode: each transaction may be on another connection."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from tests.support.load import Load, loading
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import Cluster
from tests.support.running import ROOT, Strake
from tests.support.upstream import Upstream, eventually, until

pytestmark = [pytest.mark.postgres, pytest.mark.pgbouncer]


@pytest.fixture
def pooled_url(migrated_url: str, postgres_cluster: Cluster) -> Iterator[str]:
    with pgbouncer(postgres_cluster) as port:
        parts = urlsplit(migrated_url)
        yield urlunsplit(parts._replace(netloc=parts.netloc.replace(str(parts.port), str(port))))


@pytest.mark.slow
def test_requests_and_commands_work(
    run_strake: Callable[..., Strake], upstream: Upstream, pooled_url: str, migrated_url: str
) -> None:
    strake = run_strake(DATABASE_URL=pooled_url, WEB_CONCURRENCY="2")
    endpoint = strake.connect(upstream.url)

    async def some_load() -> Load:
        path = f"{endpoint.path}/v1/models"
        async with loading(strake.address, path, endpoint.token, connections=16) as load:
            await until(lambda: len(load.samples) > 300)
        return load

    load = asyncio.run(some_load())
    assert {(sample.status, sample.error) for sample in load.samples} == {(200, "")}
    assert "store_unavailable" not in strake.log()
    eventually(lambda: count(migrated_url, "proxy_requestrecord") >= len(load.samples), 60)
    for command in (["create_master_key"], ["rotate_master_key", "--dry-run"], ["rotate_master_key"], ["verify_vault"]):
        strake.manage(*command, check=True)


def test_lock_of_a_process_ends_with_it(migrated_url: str, pooled_url: str) -> None:
    """A lock of a session would stay with PgBouncer's server connection."""
    hold = (
        "import django; django.setup()\n"
        "from accounts.transactions import process_lock\n"
        "with process_lock(7):\n    print('held', flush=True)\n    input()\n"
    )
    environment = {**Strake(ROOT / "unused").environment, "DATABASE_URL": pooled_url, "STRAKE_HOME": "/nonexistent"}
    holder = subprocess.Popen(
        [sys.executable, "-c", hold], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with psycopg.connect(migrated_url, autocommit=True) as connection:
            assert not takes_lock(connection)
            holder.kill()
            eventually(lambda: takes_lock(connection))
    finally:
        holder.kill()
        holder.communicate()


def takes_lock(connection: psycopg.Connection) -> bool:
    row = connection.execute("SELECT pg_try_advisory_xact_lock(7)").fetchone()
    return bool(row and row[0])


def count(url: str, table: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(row[0]) if row else 0
