"""Access ends when the call that ends it returns: in every process, under load and after an outage (P8)."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import outage, revocation, stopped
from tests.harness.access import respond
from tests.harness.history import OUTAGE, Report
from tests.harness.places import KINDS
from tests.harness.processes import Process, processes
from tests.support import postgres
from tests.support.upstream import Upstream

# `python -m tests.harness.revocation` sends a hundred thousand requests to four processes.
PROCESSES = 2
REQUESTS = 500
STOPS = 2 * PROCESSES


def check(report: Report, known: list[Process]) -> None:
    assert report.is_right, str(report)
    # Without this, the test would have seen nothing.
    assert {attempt.pid for attempt in report.decisive} >= {process.pid for process in known}, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_nothing_is_accepted_after_access_ended(database: str, tmp_path: Path, upstream: Upstream) -> None:
    upstream.default = respond
    with ExitStack() as stack:
        cluster = stack.enter_context(postgres.cluster()) if database == "postgresql" else None
        environment = {} if cluster is None else {"DATABASE_URL": cluster.url}
        strake, known = stack.enter_context(processes(tmp_path / "home", PROCESSES, environment))

        changed = asyncio.run(revocation.run(strake, known, upstream.url, REQUESTS))
        check(changed, known)
        assert set(KINDS) <= set(changed.changes)
        assert len(changed.decisive) > 100
        assert min(attempt.since_change for attempt in changed.decisive) < 0.01

        waited = asyncio.run(stopped.run(strake, known, upstream.url, STOPS))
        check(waited, known)
        assert waited.waited >= STOPS

        outages = revocation.outages_of(strake, cluster)
        gone = asyncio.run(outage.run(strake, known, upstream.url, outages, 1))
        check(gone, known)
        assert {attempt.pid for attempt in gone.attempts if attempt.error == OUTAGE} == {one.pid for one in known}
