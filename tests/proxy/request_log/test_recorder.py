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
from django.db import DataError, IntegrityError, InternalError, OperationalError, ProgrammingError

from proxy.request_log import recorder
from proxy.request_log.fair_queue import FairQueue
from proxy.request_log.recorder import RequestLog
from proxy.request_log.refusals import Refusal
from proxy.request_log.writer import Entry
from tests.support.load import Client, Load, loading
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream, eventually, until

RunStrake = Callable[..., Strake]
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()

TOTALS = """
import json
from proxy.models import RequestRecord, RequestRollup
rollups = list(RequestRollup.objects.values_list("count", "latency_histogram"))
print(json.dumps({
    "records": RequestRecord.objects.count(),
    "rolled up": sum(count for count, _ in rollups),
    "in histograms": sum(sum(histogram.values()) for _, histogram in rollups),
}))
"""


def totals(strake: Strake) -> dict[str, int]:
    result: dict[str, int] = json.loads(strake.python(TOTALS))
    return result


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


async def test_only_the_refused_entry_is_dropped(
    database: Database, running: RequestLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = entries(200)

    def refuse_one(batch: list[Entry]) -> None:
        if given[77] in batch:
            raise IntegrityError("out of range")
        database(batch)

    monkeypatch.setattr(recorder, "write", refuse_one)
    for entry in given:
        running.add(entry)
    await until(lambda: len(database.written) == 199)
    assert database.written == given[:77] + given[78:]
    assert running.lost == 1
    assert caplog.text.count("request_log_batch_refused") == 1


async def test_rest_of_a_refused_batch_survives_an_outage(
    database: Database, running: RequestLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = entries(64)
    outage: list[bool] = []

    def refuse_one(batch: list[Entry]) -> None:
        if given[20] in batch:
            raise DataError("out of range")
        if given[40] in batch and not outage:
            outage.append(True)
            raise OperationalError("the connection is lost")
        database(batch)

    monkeypatch.setattr(recorder, "write", refuse_one)
    for entry in given:
        running.add(entry)
    await until(lambda: len(database.written) == 63)
    assert database.written == given[:20] + given[21:]


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("deadlock detected"),
        InternalError("cannot execute INSERT in a read-only transaction"),
        ProgrammingError("permission denied for table proxy_rollup"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_error_of_the_database_drops_nothing(
    error: Exception, database: Database, running: RequestLog, caplog: pytest.LogCaptureFixture
) -> None:
    database.error = error
    given = entries(20)
    for entry in given:
        running.add(entry)
    await database.fails()
    database.error = None
    await until(lambda: len(database.written) == 20)
    assert running.lost == 0
    assert f"request_log_not_written kind={type(error).__name__}" in caplog.text


async def test_write_without_an_answer_is_aborted(
    database: Database, running: RequestLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    aborted = threading.Event()

    def hang_once(batch: list[Entry]) -> None:
        if not aborted.is_set():
            assert aborted.wait(60)
            raise OperationalError("server closed the connection unexpectedly")
        database(batch)

    monkeypatch.setattr(recorder, "WRITE_SECONDS", 0.05)
    monkeypatch.setattr(recorder, "write", hang_once)
    monkeypatch.setattr(recorder, "abort", aborted.set)
    given = entries(5)
    for entry in given:
        running.add(entry)
    await until(lambda: len(database.written) == 5)
    assert database.written == given


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
        environment = {"WEB_CONCURRENCY": "4", "DATABASE_URL": request.getfixturevalue("migrated_url")}
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
