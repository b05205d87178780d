"""The ground the tests of the forwarding path stand on: a running Strake and an upstream that reports."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.running import KEY, Endpoint, Strake
from tests.upstream import Upstream


def test_request_reaches_the_upstream_with_the_real_key_and_without_the_token(
    endpoint: Endpoint, upstream: Upstream
) -> None:
    answer = httpx.post(f"{endpoint.url}/v1/chat?a=1", headers=endpoint.bearer, json={"q": 1})
    assert answer.status_code == 200
    exchange = upstream.last
    assert exchange.target == b"/v1/chat?a=1"
    assert exchange.header("authorization") == f"Bearer {KEY}".encode()
    assert endpoint.token.encode() not in exchange.raw_head
    assert exchange.body == b'{"q":1}'
    assert answer.json() == exchange.report()


def test_rotated_and_revoked_tokens_are_refused_at_once(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    rotated = strake.rotate(endpoint)
    assert httpx.get(f"{endpoint.url}/x", headers=endpoint.bearer).status_code == 401
    assert httpx.get(f"{endpoint.url}/x", headers=rotated.bearer).status_code == 200
    strake.revoke(rotated)
    assert httpx.get(f"{endpoint.url}/x", headers=rotated.bearer).status_code == 401
    assert len(upstream.exchanges) == 1


@pytest.mark.postgres
def test_strake_runs_on_postgresql(run_strake: Callable[..., Strake], postgres_url: str, upstream: Upstream) -> None:
    running = run_strake(DATABASE_URL=postgres_url, WEB_CONCURRENCY="2")
    assert len(running.workers) == 2
    assert httpx.get(f"{running.connect(upstream.url).url}/x").status_code == 401
    endpoint = running.connect(upstream.url)
    assert httpx.get(f"{endpoint.url}/x", headers=endpoint.bearer).status_code == 200
    assert running.stop() == 0


@pytest.mark.postgres
def test_no_two_processes_share_a_database_connection(
    run_strake: Callable[..., Strake], postgres_url: str, upstream: Upstream
) -> None:
    """A connection inherited through a fork hands the rows of one process to another."""
    running = run_strake(DATABASE_URL=postgres_url, WEB_CONCURRENCY="3")
    assert httpx.get(f"{running.connect(upstream.url).url}/x").status_code == 401
    seen: set[str] = set()
    for pid in (running.pid, *running.workers):
        connections = _connections_to_the_database(pid, urlsplit(postgres_url).port or 5432)
        assert not connections & seen
        assert connections or pid == running.pid
        seen |= connections


def _connections_to_the_database(pid: int, port: int) -> set[str]:
    """The inodes of a process's TCP connections to this port."""
    try:
        links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except PermissionError:
        pytest.skip("only root may look into another process that is not dumpable")
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if int(row[2].partition(":")[2], 16) == port}
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")} & inodes
