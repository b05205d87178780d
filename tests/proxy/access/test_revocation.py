"""Access ends when the call that ends it returns, in every process, under load, and across an outage (P8)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import outage, revocation, stopped
from tests.harness.access import respond
from tests.harness.history import OUTAGE, Report
from tests.harness.places import KINDS
from tests.harness.processes import Process, processes
from tests.harness.stores import Outage
from tests.support import postgres
from tests.support.running import Strake
from tests.support.upstream import Upstream

# `python -m tests.harness.revocation` sends a hundred thousand requests to four processes.
PROCESSES = 2
REQUESTS = 500
STOPS = 2 * PROCESSES


class Running:
    """A Strake whose endpoints forward to `upstream`, its processes, and the ways in which its database may go away."""

    def __init__(self, strake: Strake, known: list[Process], upstream: Upstream, outages: list[Outage]) -> None:
        self.strake = strake
        self.processes = known
        self.upstream = upstream
        self.outages = outages


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home: Path = tmp_path_factory.mktemp("revocation") / "home"
    with ExitStack() as stack:
        cluster = stack.enter_context(postgres.cluster()) if request.param == "postgresql" else None
        upstream = stack.enter_context(Upstream())
        upstream.default = respond
        environment = {} if cluster is None else {"DATABASE_URL": cluster.url}
        strake, known = stack.enter_context(processes(home, PROCESSES, environment))
        yield Running(strake, known, upstream, revocation.outages_of(strake, cluster))


def check(report: Report, running: Running) -> None:
    assert report.is_right, str(report)
    # Without this, the test would have seen nothing.
    assert {attempt.pid for attempt in report.decisive} >= {process.pid for process in running.processes}, str(report)


def test_changes_of_access_under_load(running: Running) -> None:
    report = asyncio.run(revocation.run(running.strake, running.processes, running.upstream.url, REQUESTS))
    check(report, running)
    assert set(KINDS) <= set(report.changes)
    assert len(report.decisive) > 100
    assert min(attempt.since_change for attempt in report.decisive) < 0.001


def test_process_that_is_stopped_meanwhile(running: Running) -> None:
    report = asyncio.run(stopped.run(running.strake, running.processes, running.upstream.url, STOPS))
    check(report, running)
    assert report.waited >= STOPS


def test_outage_of_the_database_meanwhile(running: Running) -> None:
    report = asyncio.run(outage.run(running.strake, running.processes, running.upstream.url, running.outages, 1))
    check(report, running)
    out = {attempt.pid for attempt in report.attempts if attempt.error == OUTAGE}
    assert out == {process.pid for process in running.processes}
