"""Rotation and revocation take effect when they return, in every process, also under load (P8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.harness import revocation
from tests.support.running import Strake
from tests.support.upstream import Upstream

REQUESTS = 8000  # `python -m tests.harness.revocation` sends a hundred thousand


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_no_request_is_accepted_after_revocation(
    database: str, run_strake: Callable[..., Strake], upstream: Upstream, request: pytest.FixtureRequest
) -> None:
    environment, workers = {}, 1
    if database == "postgresql":
        environment, workers = {"WEB_CONCURRENCY": "4", "DATABASE_URL": request.getfixturevalue("postgres_url")}, 4
    strake = run_strake(**environment)
    assert len(strake.workers) == workers
    report = asyncio.run(revocation.run(strake, upstream.url, REQUESTS))
    assert report.wrongly_accepted == []
    assert report.wrongly_refused == []
    assert {200, 401} <= set(report.statuses) <= {200, *revocation.REFUSED}
    # Without these, the test would have seen nothing.
    assert report.rotations > 10
    assert report.revocations > 10
    assert sum(report.statuses[status] for status in revocation.REFUSED) > REQUESTS / 10
    assert report.statuses[200] > REQUESTS / 10
    assert report.soonest < 0.01
    assert len(report.busy) == workers
    assert min(report.busy.values()) > 0.1
