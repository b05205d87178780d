"""The ground the tests of the forwarding path stand on: a running Strake and an upstream that reports."""

from __future__ import annotations

from collections.abc import Callable

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
