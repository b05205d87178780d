"""How much memory a running Strake takes, after its start and in use. docs/operations.md has the figures."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from tests.support import process
from tests.support.load import Client
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream, eventually, fixed

# Under coverage, every process holds coverage.py and its figures as well.
pytestmark = [
    pytest.mark.skipif("COVERAGE_PROCESS_CONFIG" in os.environ, reason="coverage takes memory itself"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can look into hardened processes"),
]
_BOTH = [pytest.mark.postgres, pytest.mark.redis]

REQUESTS, CONNECTIONS = 4000, 8
PAGES = ("/", "/signin/", "/security/", "/privacy/", "/docs/", "/docs/errors/", "/docs/openai-python/", "/missing/")
# In megabytes. Bounds of one worker are for memory that it shares with no other process.
PROXY_WORKER, WEB_WORKER, EVERYTHING = 20, 60, 160
# With PostgreSQL, a busy worker has more: up to eight connections of asyncpg, and psycopg's pool.
BUSY_PROXY_WORKER = {"sqlite": PROXY_WORKER, "postgresql": 28}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=_BOTH)])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(database: str, request: pytest.FixtureRequest, run_strake: Callable[..., Strake]) -> Strake:
    """One worker of each half."""
    if database == "sqlite":
        return run_strake()
    urls = {"DATABASE_URL": request.getfixturevalue("migrated_url"), "REDIS_URL": request.getfixturevalue("redis_url")}
    return run_strake(**urls, WEB_CONCURRENCY="1")


def page(server: Strake, path: str) -> httpx.Response:
    return httpx.get(server.url + path, headers={"Host": f"localhost:{server.port}"}, timeout=60)


async def forward(server: Strake, endpoint: Endpoint) -> None:
    async def run() -> None:
        client = Client(server.address)
        for _ in range(REQUESTS // CONNECTIONS):
            sample = await client.request(f"{endpoint.path}/v1/models", endpoint.token)
            assert sample.status == HTTPStatus.OK
        await client.close()

    await asyncio.gather(*(run() for _ in range(CONNECTIONS)))


def private(pids: list[int]) -> float:
    (pid,) = pids
    return process.measure(pid, "Private_Dirty")


def everything(server: Strake) -> float:
    """The proportional set size of all processes, which counts shared pages once."""
    return sum(process.measure(pid, "Pss") for pid in server.pids)


def maps(pids: list[int], library: str) -> bool:
    (pid,) = pids
    return library in Path(f"/proc/{pid}/maps").read_text()


@contextlib.contextmanager
def held_back_log(server: Strake) -> Iterator[None]:
    """Hold SQLite's write lock, and wait in the end until every request is recorded.

    Otherwise the number of entries that wait together, which is most of what varies, would depend on the machine.
    """
    with contextlib.closing(sqlite3.connect(server.home / "data/strake.sqlite3", isolation_level=None)) as database:
        database.execute("PRAGMA busy_timeout = 60000")
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("COMMIT")
        count = "SELECT count(*) FROM proxy_requestrecord"
        eventually(lambda: database.execute(count).fetchone() == (REQUESTS,), what="a record of each request")


def test_memory_is_bounded(server: Strake, database: str, upstream: Upstream) -> None:
    upstream.default = fixed(200, body=b"{}")
    assert page(server, "/signin/").status_code == HTTPStatus.OK
    assert private(server.workers) <= PROXY_WORKER
    assert private(server.web_workers) <= WEB_WORKER
    if database == "sqlite":
        assert everything(server) <= EVERYTHING

    endpoint = server.connect(upstream.url)
    server.hang_up()
    with held_back_log(server) if database == "sqlite" else contextlib.nullcontext():
        asyncio.run(forward(server, endpoint))
    for path in PAGES:
        page(server, path)
    assert private(server.workers) <= BUSY_PROXY_WORKER[database]
    assert private(server.web_workers) <= WEB_WORKER
    if database == "sqlite":
        assert everything(server) <= EVERYTHING

    assert page(server, "/api/v1/me").status_code == HTTPStatus.UNAUTHORIZED
    assert private(server.web_workers) <= WEB_WORKER


def test_libraries_are_loaded_where_they_are_needed(strake: Strake) -> None:
    for driver in ("psycopg", "asyncpg"):
        assert not maps(strake.workers, driver), "this is SQLite"
        assert not maps(strake.web_workers, driver), "this is SQLite"
    assert not maps(strake.workers, "pydantic_core")
    assert not maps([strake.half("web")], "pydantic_core"), "the API is loaded at its first request"
    assert page(strake, "/api/v1/me").status_code == HTTPStatus.UNAUTHORIZED
    assert maps(strake.web_workers, "pydantic_core"), "the search finds it"
