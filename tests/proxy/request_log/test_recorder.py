"""The request log records every request once, soon, with few statements, and delays none."""

from __future__ import annotations

import asyncio
import json
import math
import resource
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.db import DataError, OperationalError, connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from credentials.models import BearerToken
from proxy.models import LATENCY_BOUNDS_MS, RequestRecord, RequestRollup
from proxy.request_log import recorder, writer
from proxy.request_log.fair_queue import FairQueue
from proxy.request_log.recorder import RequestLog
from proxy.request_log.refusals import Refusal
from proxy.request_log.writer import CLOSED, OPENED, Entry, write
from tests.support import factories
from tests.support.load import Client, Load, loading
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream, eventually, until

RunStrake = Callable[..., Strake]
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()

TOTALS = """
import json
from proxy.models import LATENCY_BOUNDS_MS, RequestRecord, RequestRollup
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


# --- Writing -------------------------------------------------------------------------------------------------------


def test_records_rollups_and_last_use(transactional_db: None) -> None:
    connected = factories.make_endpoint(owner=factories.make_user())
    endpoint, token = connected.endpoint, connected.token

    def entry(at: float, status: int = 200, latency_ms: int = 30) -> Entry:
        return Entry(endpoint.pk, token.pk, status, latency_ms, latency_ms // 2, at)

    write([entry(NOON + 1), entry(NOON + 2, latency_ms=26), entry(NOON + 3599, status=503, latency_ms=9)])
    write([entry(NOON + 5, latency_ms=10), entry(NOON + 3600, status=404, latency_ms=10**7)])

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
def test_latency_is_counted_below_its_upper_bound(latency_ms: int) -> None:
    entry = Entry(uuid4(), "ctok_a", 200, latency_ms, None, NOON)
    [histogram] = writer._histograms([entry]).values()
    [index] = non_zero(histogram)
    bounds = (0, *LATENCY_BOUNDS_MS, float("inf"))
    assert bounds[index] <= latency_ms < bounds[index + 1]


def test_latency_of_months_fits_the_column(transactional_db: None) -> None:
    connected = factories.make_endpoint(owner=factories.make_user())
    write([Entry(connected.endpoint.pk, connected.token.pk, 101, 10**10, None, NOON)])
    assert RequestRecord.objects.get().latency_ms == 2**31 - 1


def test_websocket_is_rolled_up_once_by_its_handshake(transactional_db: None) -> None:
    connected = factories.make_endpoint(owner=factories.make_user())
    endpoint, token = connected.endpoint, connected.token
    write([Entry(endpoint.pk, token.pk, 101, 30, 30, NOON, "", OPENED)])
    write([Entry(endpoint.pk, token.pk, 101, 10**7, None, NOON + 10**4, "ended", CLOSED)])
    rollup = RequestRollup.objects.get()
    assert (rollup.status_class, rollup.count, non_zero(rollup.latency_histogram)) == (1, 1, {2: 1})
    assert list(RequestRecord.objects.order_by("at").values_list("phase", "error", "latency_ms")) == [
        ("opened", "", 30),
        ("closed", "ended", 10**7),
    ]


def test_record_of_a_deleted_endpoint_is_written(transactional_db: None) -> None:
    connected = factories.make_endpoint(owner=factories.make_user())
    entry = Entry(connected.endpoint.pk, connected.token.pk, 200, 1, None, NOON)
    connected.endpoint.delete()
    write([entry])
    assert RequestRecord.objects.count() == 1
    assert BearerToken.objects.count() == 0


def test_large_batch_takes_few_statements(transactional_db: None) -> None:
    owner = factories.make_user()
    made = [factories.make_endpoint(owner=owner) for _ in range(20)]
    batch = [
        Entry(made[number % 20].endpoint.pk, made[number % 20].token.pk, 200, number % 500, 1, NOON + number / 1000)
        for number in range(2000)
    ]
    with CaptureQueriesContext(connection) as queries:
        write(batch)
    # Four inserts of 500 rows, reading and writing rollups, tokens, the transaction, and opening the connection.
    assert len(queries) <= 14
    assert RequestRecord.objects.count() == 2000
    assert sum(RequestRollup.objects.values_list("count", flat=True)) == 2000


def test_only_routing_metadata_is_stored() -> None:
    assert [field.name for field in RequestRecord._meta.get_fields()] == [
        "id",
        "endpoint",
        "token",
        "status",
        "error",
        "phase",
        "latency_ms",
        "first_byte_ms",
        "at",
    ]


# --- The queue -----------------------------------------------------------------------------------------------------


class Database:
    """Stands in for `write`: collects batches, or raises `error`."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.written: list[Entry] = []
        self.calls = 0

    async def fails(self) -> None:
        """Wait until a batch that was collected from now on has failed."""
        calls = self.calls
        await until(lambda: self.calls >= calls + 2)

    def __call__(self, batch: list[Entry]) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        self.written += batch


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    database = Database()
    monkeypatch.setattr(recorder, "write", database)
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 0.02)
    return database


@pytest.fixture
async def running(database: Database) -> AsyncIterator[RequestLog]:
    running = RequestLog()
    running.start()
    yield running
    await running.stop()


def entries(count: int) -> list[Entry]:
    endpoint_id = uuid4()
    return [Entry(endpoint_id, "ctok_a", 200, number, None, NOON + number) for number in range(count)]


async def test_failed_batch_is_written_later_in_order(database: Database, running: RequestLog) -> None:
    database.error = OperationalError("database is locked")
    given = entries(50)
    for entry in given[:30]:
        running.add(entry)
    await database.fails()
    for entry in given[30:]:
        running.add(entry)
    await database.fails()
    assert database.written == []
    database.error = None
    await until(lambda: len(database.written) >= len(given))
    assert database.written == given


async def test_entries_during_a_write_wait_for_the_next(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, under load, a stream of small batches would take more processor time than the requests."""
    batches: list[int] = []
    given = iter(entries(100_000))
    request_log = RequestLog()

    def write_while_requests_end(batch: list[Entry]) -> None:
        batches.append(len(batch))
        for _ in range(5):
            request_log.add(next(given))

    monkeypatch.setattr(recorder, "write", write_while_requests_end)
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 0.1)
    request_log.add(next(given))
    started = time.monotonic()
    request_log.start()
    await until(lambda: len(batches) > 5)
    assert len(batches) <= (time.monotonic() - started) / 0.1
    monkeypatch.setattr(recorder, "write", database)
    await request_log.stop()
    assert len(database.written) == 5


async def test_stop_writes_entries_added_during_its_write(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = entries(2)
    request_log = RequestLog()
    written: list[Entry] = []

    def write_while_a_request_ends(batch: list[Entry]) -> None:
        written.extend(batch)
        if batch == [first]:
            request_log.add(second)

    monkeypatch.setattr(recorder, "write", write_while_a_request_ends)
    request_log.add(first)
    await request_log.stop()
    assert written == [first, second]


async def test_full_queue_drops_the_oldest_entries(
    database: Database, running: RequestLog, caplog: pytest.LogCaptureFixture
) -> None:
    running._pending = FairQueue(100)
    database.error = OperationalError("disk full, and this text holds a path")
    given = entries(250)
    for entry in given[:60]:
        running.add(entry)
    await database.fails()
    for entry in given[60:]:
        running.add(entry)
    await database.fails()
    assert len(running._pending) <= 100
    database.error = None
    await until(lambda: "request_log_entries_dropped count=150" in caplog.text)
    assert database.written == given[150:]
    assert f"request_log_entries_dropped count=150 most_of={given[0].endpoint_id}:150" in caplog.text
    assert running.lost == 150
    assert caplog.text.count("request_log_not_written") == 1
    assert "disk full" not in caplog.text


async def test_flood_of_one_endpoint_takes_no_record_of_another(database: Database, running: RequestLog) -> None:
    """While the database is down, one endpoint adds more entries than there is room for, others 100 each."""
    database.error = OperationalError("database is locked")
    others = [entries(100) for _ in range(3)]
    flood = entries(recorder.MAX_PENDING + 20_000)
    for number, entry in enumerate(flood):
        if number % 1000 == 0 and number < 100_000:
            for other in others:
                running.add(other[number // 1000])
        running.add(entry)
    assert running.lost == 20_000 + 300
    await asyncio.sleep(0.1)  # a failed attempt in between
    database.error = None
    await running.stop()
    written = {entry.endpoint_id: 0 for entry in database.written}
    for entry in database.written:
        written[entry.endpoint_id] += 1
    assert [written[other[0].endpoint_id] for other in others] == [100] * 3
    assert written[flood[0].endpoint_id] == recorder.MAX_PENDING - 300


async def test_refusals_are_counted_despite_an_outage(
    database: Database, running: RequestLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Refusal] = []
    failed: list[int] = []

    def write_refusals(refusals: list[Refusal]) -> None:
        failed.append(len(refusals))
        if database.error is not None:
            raise database.error
        written.extend(refusals)

    monkeypatch.setattr(recorder, "write_refusals", write_refusals)
    endpoint_id = uuid4()
    database.error = OperationalError("database is locked")
    for second in range(200):
        running.count_refusal(endpoint_id, "ctok_a", "rate_limited", NOON + second)
    await asyncio.to_thread(eventually, lambda: len(failed) >= 2)
    database.error = None
    running.count_refusal(endpoint_id, "ctok_a", "rate_limited", NOON + 200)
    await running.stop()
    assert sum(refusal.times for refusal in written) == 201
    assert {refusal.minute * 60 for refusal in written} == {NOON, NOON + 60, NOON + 120, NOON + 180}
    assert running.lost == 0


async def test_lag_is_reported(database: Database, running: RequestLog) -> None:
    assert (running.waiting, running.lag_seconds) == (0, 0)
    database.error = OperationalError("database is locked")
    for entry in entries(3):
        running.add(entry)
    await until(lambda: running.lag_seconds >= 0.05)
    assert running.waiting == 3
    database.error = None
    await until(lambda: running.lag_seconds == 0)
    assert running.waiting == 0


async def test_refused_batch_does_not_block_the_next(
    database: Database, running: RequestLog, caplog: pytest.LogCaptureFixture
) -> None:
    database.error = DataError("out of range")
    running.add(entries(1)[0])
    await until(lambda: running.lost)
    database.error = None
    given = entries(3)
    for entry in given:
        running.add(entry)
    await until(lambda: len(database.written) >= len(given))
    assert database.written == given
    assert "request_log_batch_refused kind=DataError" in caplog.text
    assert "request_log_entries_dropped count=1" in caplog.text
    assert running.lost == 1


async def test_stop_writes_every_entry(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 60)
    stopping = RequestLog()
    stopping.start()
    given = entries(12_345)
    for entry in given:
        stopping.add(entry)
    await stopping.stop()
    assert database.written == given


async def test_stop_during_a_write_writes_nothing_twice(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    writing = threading.Event()

    def slow(batch: list[Entry]) -> None:
        writing.set()
        time.sleep(0.3)
        database(batch)

    monkeypatch.setattr(recorder, "write", slow)
    stopping = RequestLog()
    stopping.start()
    given = entries(10)
    for entry in given[:5]:
        stopping.add(entry)
    await until(writing.is_set)
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
def test_all_workers_record_every_request_once(
    database: str, run_strake: RunStrake, upstream: Upstream, request: pytest.FixtureRequest
) -> None:
    """The one worker of SQLite, and four of PostgreSQL."""
    environment = {}
    if database == "postgresql":
        environment = {"WEB_CONCURRENCY": "4", "DATABASE_URL": request.getfixturevalue("postgres_url")}
    strake = run_strake(**environment)
    endpoint = strake.connect(upstream.url)
    asyncio.run(make_requests(strake, endpoint, 3200))
    assert strake.stop() == 0  # SIGTERM, right after the last response
    assert totals(strake) == {"records": 3200, "rolled up": 3200, "in histograms": 3200}


def test_request_is_recorded_while_strake_runs(strake: Strake, endpoint: Endpoint) -> None:
    assert recorder.FLUSH_SECONDS < 1
    asyncio.run(make_requests(strake, endpoint, 1, clients=1))
    eventually(lambda: strake.call("records", subdomain=endpoint.subdomain)["records"])


async def load_meanwhile(strake: Strake, endpoint: Endpoint, begin: Callable[[], Any], end: Callable[[], Any]) -> Load:
    """Send requests before, during and after an outage of the log's database. None may fail, or wait for it.

    The outage lasts until hundreds of requests that began in it have ended, which those that wait for it do not.
    """
    async with loading(strake.address, f"{endpoint.path}/v1/models", endpoint.token, connections=8, pause=0.01) as load:
        await until(lambda: len(load.samples) > 200)
        begin()
        out = time.monotonic()
        await asyncio.sleep(5)  # ten writes of the log
        await until(lambda: len(load.between(out, math.inf)) > 500)
        back = time.monotonic()
        end()
        await until(lambda: len(load.between(back, math.inf)) > 200)
    assert {sample.status for sample in load.samples} == {200}
    assert not [sample for sample in load.samples if sample.began < out + 2 and sample.ended > back]
    # A write waits ten seconds for a lock. A request that waited for a write would too.
    assert settings.DATABASES["default"]["OPTIONS"]["timeout"] == 10
    assert max(sample.seconds for sample in load.samples) < 5
    return load


def database_of(strake: Strake) -> Path:
    [database] = strake.home.glob("data/*.sqlite3")
    return database


@pytest.mark.slow
def test_locked_database_delays_and_loses_nothing(run_strake: RunStrake, upstream: Upstream) -> None:
    strake = run_strake()
    endpoint = strake.connect(upstream.url)
    with closing(sqlite3.connect(database_of(strake), timeout=10, isolation_level=None)) as writer:
        load = asyncio.run(
            load_meanwhile(
                strake, endpoint, lambda: writer.execute("BEGIN EXCLUSIVE"), lambda: writer.execute("ROLLBACK")
            )
        )
    strake.stop()
    # Requests in flight when the load ended have no sample.
    assert len(load.samples) <= totals(strake)["records"] <= len(load.samples) + 8


@pytest.mark.slow
def test_full_disk_delays_and_loses_nothing(run_strake: RunStrake, upstream: Upstream) -> None:
    """A limit on the file size, set from outside, fails as a full disk does."""
    strake = run_strake()
    endpoint = strake.connect(upstream.url)
    [worker] = strake.workers
    _, most = resource.prlimit(worker, resource.RLIMIT_FSIZE)

    def set_limit(size: int) -> None:
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (size, most))

    load = asyncio.run(load_meanwhile(strake, endpoint, lambda: set_limit(4096), lambda: set_limit(most)))
    strake.stop()
    assert "request_log_not_written" in strake.log()
    assert len(load.samples) <= totals(strake)["records"] <= len(load.samples) + 8
