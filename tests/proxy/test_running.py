"""Forwarding in general, and the processes that do it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.running import KEY, Endpoint, Strake
from tests.support.upstream import Upstream


def test_key_replaces_the_token(endpoint: Endpoint, upstream: Upstream) -> None:
    response = httpx.post(f"{endpoint.url}/v1/chat?a=1", headers=endpoint.bearer, json={"q": 1})
    assert response.status_code == 200
    exchange = upstream.last
    assert exchange.target == b"/v1/chat?a=1"
    assert exchange.header("authorization") == f"Bearer {KEY}".encode()
    assert endpoint.token.encode() not in exchange.raw_head
    assert exchange.body == b'{"q":1}'
    assert response.json() == exchange.report()


def test_rotated_and_revoked_tokens_fail_at_once(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    rotated = strake.rotate(endpoint)
    assert httpx.get(f"{endpoint.url}/x", headers=endpoint.bearer).status_code == 401
    assert httpx.get(f"{endpoint.url}/x", headers=rotated.bearer).status_code == 200
    strake.revoke(rotated)
    assert httpx.get(f"{endpoint.url}/x", headers=rotated.bearer).status_code == 401
    assert len(upstream.exchanges) == 1


@pytest.mark.postgres
def test_strake_runs_on_postgresql(run_strake: Callable[..., Strake], migrated_url: str, upstream: Upstream) -> None:
    running = run_strake(DATABASE_URL=migrated_url, WEB_CONCURRENCY="2")
    assert len(running.workers) == 2
    assert httpx.get(f"{running.connect(upstream.url).url}/x").status_code == 401
    endpoint = running.connect(upstream.url)
    assert httpx.get(f"{endpoint.url}/x", headers=endpoint.bearer).status_code == 200
    assert running.stop() == 0


@pytest.mark.postgres
def test_processes_share_no_database_connection(
    run_strake: Callable[..., Strake], migrated_url: str, upstream: Upstream
) -> None:
    """A connection inherited through a fork would deliver one process's rows to another."""
    running = run_strake(DATABASE_URL=migrated_url, WEB_CONCURRENCY="3")
    assert httpx.get(f"{running.connect(upstream.url).url}/x").status_code == 401
    seen: set[str] = set()
    for pid in running.pids:
        connections = _connections_to_the_database(pid, urlsplit(migrated_url).port or 5432)
        assert not connections & seen
        assert connections or pid not in (*running.workers, *running.web_workers)
        seen |= connections


def _connections_to_the_database(pid: int, port: int) -> set[str]:
    """Return the inodes of a process's TCP connections to this port."""
    try:
        links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except PermissionError:
        pytest.skip("only root may inspect a process that is not dumpable")
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if int(row[2].partition(":")[2], 16) == port}
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")} & inodes
