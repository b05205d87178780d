"""Rotation and revocation hold from the moment they return, in every process (P8), also under load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests import revocation
from tests.running import Strake
from tests.upstream import Upstream

REQUESTS = 8000  # `python -m bench.revocation` makes a hundred thousand


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_no_request_invoked_after_a_revocation_returned_is_accepted(
    database: str, run_strake: Callable[..., Strake], upstream: Upstream, request: pytest.FixtureRequest
) -> None:
    environment = {"WEB_CONCURRENCY": "4"}
    if database == "postgresql":
        environment["DATABASE_URL"] = request.getfixturevalue("postgres_url")
    strake = run_strake(**environment)
    assert len(strake.workers) == 4
    report = asyncio.run(revocation.run(strake, upstream.url, REQUESTS))
    assert report.wrongly_accepted == []
    assert report.wrongly_refused == []
    assert set(report.statuses) == {200, 401}
    # Else this looked at nothing.
    assert report.rotations > 10
    assert report.revocations > 10
    assert report.statuses[401] > REQUESTS / 10
    assert report.statuses[200] > REQUESTS / 10
    assert report.soonest < 0.01
    assert len(report.busy) == 4
    assert min(report.busy.values()) > 0.1
