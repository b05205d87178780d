"""The journal: every request once, soon, in few statements, and never in a request's way."""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import DataError, OperationalError, connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from credentials.models import BearerToken
from proxy import journal
from proxy.journal import LATENCY_BOUNDS_MS, Entry, Journal
from proxy.models import RequestRecord, RequestRollup
from tests import factories
from tests.load import Client, Load, loading, percentile
from tests.running import Endpoint, Strake
from tests.upstream import Upstream, eventually

RunStrake = Callable[..., Strake]
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()

TOTALS = """
import json
from proxy.models import RequestRecord, RequestRollup
rollups = list(RequestRollup.objects.values_list("count", "latency_histogram"))
print(json.dumps({
    "records": RequestRecord.objects.count(),
    "rolled up": sum(count for count, _ in rollups),
    "in histograms": sum(sum(histogram) for _, histogram in rollups),
}))
"""


def totals(strake: Strake) -> dict[str, int]:
    result: dict[str, int] = json.loads(strake.python(TOTALS))
    return result


# --- What is written -----------------------------------------------------------------------------------------------


def test_records_rollups_and_last_use(transactional_db: None) -> None:
    connected = factories.make_endpoint(owner=factories.make_user())
    endpoint, token = connected.endpoint, connected.token

    def entry(at: float, status: int = 200, latency_ms: int = 30) -> Entry:
        return Entry(endpoint.pk, token.pk, status, latency_ms, latency_ms // 2, at)

    journal.write([entry(NOON + 1), entry(NOON + 2, latency_ms=26), entry(NOON + 3599, status=503, latency_ms=9)])
    journal.write([entry(NOON + 5, latency_ms=10), entry(NOON + 3600, status=404, latency_ms=10**7)])

    assert list(RequestRecord.objects.order_by("at").values_list("status", "latency_ms", "first_byte_ms")) == [
        (200, 30, 15),
        (200, 26, 13),
        (200, 10, 5),
        (503, 9, 4),
        (404, 10**7, 5 * 10**6),
    ]
    found = {
        (rollup.hour.hour, rollup.status_class): (rollup.count, non_zero(rollup.latency_histogram))
        for rollup in RequestRollup.objects.all()
    }
    last = len(LATENCY_BOUNDS_MS)
    assert found == {(12, 2): (3, {1: 1, 2: 2}), (12, 5): (1, {0: 1}), (13, 4): (1, {last: 1})}
    token.refresh_from_db()
    assert token.last_used_at == datetime.fromtimestamp(NOON + 3600, UTC)


def non_zero(histogram: list[int]) -> dict[int, int]:
    assert len(histogram) == len(LATENCY_BOUNDS_MS) + 1
    return {index: count for index, count in enumerate(histogram) if count}


@given(latency_ms=st.integers(0, 10**6))
def test_a_latency_is_counted_below_its_upper_bound(latency_ms: int) -> None:
    entry = Entry(uuid4(), "ctok_a", 200, latency_ms, None, NOON)
    [histogram] = journal._counts([entry]).values()
    [index] = non_zero(histogram)
    bounds = (0, *LATENCY_BOUNDS_MS, float("inf"))
    assert bounds[index] <= latency_ms < bounds[index + 1]


def test_a_connection_of_months_fits(transactional_db: None) -> None:
    connected = factories.make_endpoint(owner=factories.make_user())
    journal.write([Entry(connected.endpoint.pk, connected.token.pk, 101, 10**10, None, NOON)])
    assert RequestRecord.objects.get().latency_ms == 2**31 - 1


def test_an_endpoint_deleted_meanwhile_does_not_matter(transactional_db: None) -> None:
    connected = factories.make_endpoint(owner=factories.make_user())
    entry = Entry(connected.endpoint.pk, connected.token.pk, 200, 1, None, NOON)
    connected.endpoint.delete()
    journal.write([entry])
    assert RequestRecord.objects.count() == 1
    assert BearerToken.objects.count() == 0


def test_a_big_batch_is_few_statements(transactional_db: None) -> None:
    owner = factories.make_user()
    made = [factories.make_endpoint(owner=owner) for _ in range(20)]
    batch = [
        Entry(made[number % 20].endpoint.pk, made[number % 20].token.pk, 200, number % 500, 1, NOON + number / 1000)
        for number in range(2000)
    ]
    with CaptureQueriesContext(connection) as queries:
        journal.write(batch)
    # Four inserts of 500 rows; rollups read and written; tokens; the transaction around it, and opening the connection.
    assert len(queries) <= 14
    assert RequestRecord.objects.count() == 2000
    assert sum(RequestRollup.objects.values_list("count", flat=True)) == 2000


def test_only_routing_metadata_has_a_column() -> None:
    assert [field.name for field in RequestRecord._meta.get_fields()] == [
        "id",
        "endpoint",
        "token",
        "status",
        "latency_ms",
        "first_byte_ms",
        "at",
    ]


# --- The queue -----------------------------------------------------------------------------------------------------


class Database:
    """Stands in for `journal.write`: notes batches, or fails as told."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.written: list[Entry] = []

    def __call__(self, batch: list[Entry]) -> None:
        if self.error is not None:
            raise self.error
        self.written += batch


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    database = Database()
    monkeypatch.setattr(journal, "write", database)
    monkeypatch.setattr(journal, "FLUSH_SECONDS", 0.02)
    return database


@pytest.fixture
async def running(database: Database) -> AsyncIterator[Journal]:
    running = Journal()
    running.start()
    yield running
    await running.stop()


def entries(count: int) -> list[Entry]:
    endpoint_id = uuid4()
    return [Entry(endpoint_id, "ctok_a", 200, number, None, NOON + number) for number in range(count)]


async def test_what_could_not_be_written_is_written_later_in_order(database: Database, running: Journal) -> None:
    database.error = OperationalError("database is locked")
    given = entries(50)
    for entry in given[:30]:
        running.add(entry)
    await asyncio.sleep(0.1)
    for entry in given[30:]:
        running.add(entry)
    await asyncio.sleep(0.1)
    assert database.written == []
    database.error = None
    await asyncio.sleep(0.2)
    assert database.written == given


async def test_what_comes_during_a_write_waits_for_the_next_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However busy it is: small batches one after another would take more of the processor than the requests."""
    batches: list[int] = []
    given = iter(entries(100_000))
    journaling = Journal()

    def write_while_requests_end(batch: list[Entry]) -> None:
        batches.append(len(batch))
        for _ in range(5):
            journaling.add(next(given))

    monkeypatch.setattr(journal, "write", write_while_requests_end)
    monkeypatch.setattr(journal, "FLUSH_SECONDS", 0.1)
    journaling.add(next(given))
    started = time.monotonic()
    journaling.start()
    await asyncio.sleep(1)
    assert 1 < len(batches) <= (time.monotonic() - started) / 0.1
    monkeypatch.setattr(journal, "write", database)
    await journaling.stop()
    assert len(database.written) == 5


async def test_stopping_writes_what_comes_during_its_last_write_too(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = entries(2)
    journaling = Journal()
    written: list[Entry] = []

    def write_while_a_request_ends(batch: list[Entry]) -> None:
        written.extend(batch)
        if batch == [first]:
            journaling.add(second)

    monkeypatch.setattr(journal, "write", write_while_a_request_ends)
    journaling.add(first)
    await journaling.stop()
    assert written == [first, second]


async def test_a_journal_that_is_full_loses_the_oldest_and_says_how_many(
    database: Database, running: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "MOST_PENDING", 100)
    running._pending = deque(maxlen=100)
    database.error = OperationalError("disk full, and this text holds a path")
    given = entries(250)
    for entry in given[:60]:
        running.add(entry)
    await asyncio.sleep(0.1)
    for entry in given[60:]:
        running.add(entry)
    await asyncio.sleep(0.1)
    assert len(running._pending) <= 100
    database.error = None
    await asyncio.sleep(0.2)
    assert database.written == given[150:]
    assert "journal_entries_lost count=150" in caplog.text
    assert caplog.text.count("journal_not_written") == 1
    assert "disk full" not in caplog.text


async def test_the_journal_says_how_far_behind_it_is(database: Database, running: Journal) -> None:
    assert (running.waiting, running.lag_seconds) == (0, 0)
    database.error = OperationalError("database is locked")
    for entry in entries(3):
        running.add(entry)
    await asyncio.sleep(0.1)
    assert running.waiting == 3
    assert running.lag_seconds >= 0.05
    assert journal.of_this_process() is running
    database.error = None
    await asyncio.sleep(0.2)
    assert (running.waiting, running.lag_seconds) == (0, 0)


async def test_a_batch_the_database_refuses_does_not_block_the_next(
    database: Database, running: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    database.error = DataError("out of range")
    running.add(entries(1)[0])
    await asyncio.sleep(0.1)
    database.error = None
    given = entries(3)
    for entry in given:
        running.add(entry)
    await asyncio.sleep(0.1)
    assert database.written == given
    assert "journal_batch_dropped kind=DataError" in caplog.text
    assert "journal_entries_lost count=1" in caplog.text


async def test_stopping_writes_what_is_there(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FLUSH_SECONDS", 60)
    stopping = Journal()
    stopping.start()
    given = entries(12_345)
    for entry in given:
        stopping.add(entry)
    await stopping.stop()
    assert database.written == given


async def test_stopping_in_the_middle_of_a_write_writes_nothing_twice(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(batch: list[Entry]) -> None:
        time.sleep(0.3)
        database(batch)

    monkeypatch.setattr(journal, "write", slow)
    stopping = Journal()
    stopping.start()
    given = entries(10)
    for entry in given[:5]:
        stopping.add(entry)
    await asyncio.sleep(0.1)
    for entry in given[5:]:
        stopping.add(entry)
    await stopping.stop()
    assert database.written == given


# --- With real servers ---------------------------------------------------------------------------------------------


async def make_requests(strake: Strake, endpoint: Endpoint, count: int, clients: int = 16) -> None:
    async def call(client: Client) -> None:
        for _ in range(count // clients):
            assert (await client.request(f"{endpoint.path}/v1/models", endpoint.token)).status == 200
        await client.close()

    await asyncio.gather(*(call(Client(strake.address)) for _ in range(clients)))


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_four_workers_record_every_request_once_and_flush_on_sigterm(
    database: str, run_strake: RunStrake, upstream: Upstream, request: pytest.FixtureRequest
) -> None:
    environment = {"WEB_CONCURRENCY": "4"}
    if database == "postgresql":
        environment["DATABASE_URL"] = request.getfixturevalue("postgres_url")
    strake = run_strake(**environment)
    endpoint = strake.connect(upstream.url)
    asyncio.run(make_requests(strake, endpoint, 3200))
    assert strake.stop() == 0  # SIGTERM, in the same moment
    assert totals(strake) == {"records": 3200, "rolled up": 3200, "in histograms": 3200}


def test_a_request_is_in_the_journal_within_a_second_and_a_half(strake: Strake, endpoint: Endpoint) -> None:
    """A second to collect, the rest to write and to look."""
    asyncio.run(make_requests(strake, endpoint, 1, clients=1))
    eventually(lambda: strake.call("records", subdomain=endpoint.subdomain)["records"], seconds=1.5)


async def load_meanwhile(strake: Strake, endpoint: Endpoint, begin: Callable[[], Any], end: Callable[[], Any]) -> Load:
    """Load for two seconds before, five in the middle of, and two after something; nothing may fail."""
    async with loading(strake.address, f"{endpoint.path}/v1/models", endpoint.token, connections=8, pause=0.01) as load:
        await asyncio.sleep(2)
        out = time.monotonic()
        begin()
        await asyncio.sleep(5)
        back = time.monotonic()
        end()
        await asyncio.sleep(2)
    assert {sample.status for sample in load.samples} == {200}
    usual, meanwhile = load.between(0, out), load.between(out, back)
    assert len(meanwhile) > 500
    assert percentile(meanwhile, 0.99) < max(3 * percentile(usual, 0.99), 0.05)
    return load


def database_of(strake: Strake) -> Path:
    [database] = strake.home.glob("*.sqlite3")
    return database


@pytest.mark.slow
def test_a_locked_database_slows_no_request_and_loses_no_record(run_strake: RunStrake, upstream: Upstream) -> None:
    strake = run_strake()
    endpoint = strake.connect(upstream.url)
    with closing(sqlite3.connect(database_of(strake), timeout=10, isolation_level=None)) as writer:
        load = asyncio.run(
            load_meanwhile(
                strake, endpoint, lambda: writer.execute("BEGIN EXCLUSIVE"), lambda: writer.execute("ROLLBACK")
            )
        )
    strake.stop()
    # The requests that were under way when the load ended have no sample.
    assert len(load.samples) <= totals(strake)["records"] <= len(load.samples) + 8


@pytest.mark.slow
def test_a_full_disk_slows_no_request_and_loses_no_record(run_strake: RunStrake, upstream: Upstream) -> None:
    """What a process may write to a file is limited from outside, which fails as a full disk does."""
    strake = run_strake()
    endpoint = strake.connect(upstream.url)
    [worker] = strake.workers
    _, most = resource.prlimit(worker, resource.RLIMIT_FSIZE)

    def set_limit(size: int) -> None:
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (size, most))

    load = asyncio.run(load_meanwhile(strake, endpoint, lambda: set_limit(4096), lambda: set_limit(most)))
    strake.stop()
    assert "journal_not_written" in strake.log()
    assert len(load.samples) <= totals(strake)["records"] <= len(load.samples) + 8
