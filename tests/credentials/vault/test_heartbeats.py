"""Heartbeats: a row for each server process from before it serves until it ends, and no longer."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, OperationalError, connection
from django.db.models.functions import Now
from django.utils import timezone

from credentials.vault import heartbeats
from credentials.vault.heartbeats import Heartbeat, Vitals
from credentials.vault.models import ServerProcess
from strake import __version__
from tests.support.upstream import eventually

pytestmark = pytest.mark.usefixtures("transactional_db")

Record = Callable[..., None]
OLD = Vitals("old", {"old": "00"})
BOTH = Vitals("new", {"old": "00", "new": "11"})


class Measured:
    """Stands in for `measure`: returns `vitals`, or raises if there are none."""

    def __init__(self, vitals: Vitals | None) -> None:
        self.vitals = vitals

    def __call__(self) -> Vitals:
        if self.vitals is None:
            raise OSError("sk-canary")
        return self.vitals


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls follow each other quickly, and no beat comes on time."""
    monkeypatch.setattr(heartbeats, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 3600.0)


@pytest.fixture
def always_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 0.0)


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Each write fails with the next of these errors, and works again when none is left."""
    errors: list[Exception] = []
    record: Record = heartbeats.record

    def failing(*arguments: Any) -> None:
        if errors:
            raise errors.pop()
        record(*arguments)

    monkeypatch.setattr(heartbeats, "record", failing)
    return errors


@contextmanager
def beating(measure: Callable[[], Vitals] = lambda: OLD, kind: str = "proxy") -> Iterator[None]:
    heartbeat = Heartbeat(kind, measure)
    heartbeat.start()
    try:
        yield
    finally:
        heartbeat.stop()


def open_files() -> Iterator[str]:
    """The paths of the files that this process has open."""
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile
            yield os.readlink(f"/proc/self/fd/{descriptor}")


def test_row_exists_from_start_to_stop() -> None:
    before = timezone.now()
    vitals = Vitals("new", {"new": "11", "old": "00"}, 7, 1.5, 3, {"5f2c": 4}, 9)
    with beating(lambda: vitals):
        row = ServerProcess.objects.get()
    assert (row.kind, row.version) == ("proxy", __version__)
    assert row.name == f"{socket.gethostname()}:{os.getpid()}"[:100]
    assert (row.primary_key_id, row.key_ids) == ("new", {"new": "11", "old": "00"})
    assert (row.waiting, row.lag_seconds, row.lost) == (7, 1.5, 3)
    assert (row.in_flight, row.in_flight_total) == ({"5f2c": 4}, 9)
    assert before <= row.started_at <= row.seen_at + timedelta(seconds=1)
    assert not ServerProcess.objects.exists()


def test_start_returns_after_the_row_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    record: Record = heartbeats.record

    def slow(*arguments: Any) -> None:
        time.sleep(0.2)
        record(*arguments)

    monkeypatch.setattr(heartbeats, "record", slow)
    with beating():
        assert ServerProcess.objects.exists()


def test_web_process_reports_no_keys() -> None:
    with beating(Vitals, "web"):
        row = ServerProcess.objects.get()
    assert (row.kind, row.primary_key_id, row.key_ids, row.in_flight) == ("web", "", {}, {})


def test_database_refuses_a_web_process_with_a_key() -> None:
    with pytest.raises(IntegrityError, match="credentials_serverprocess_web_has_no_key"):
        heartbeats.record(uuid4(), "web", OLD, timezone.now())


def test_changed_keys_are_recorded_at_the_next_poll() -> None:
    """Long before the next beat, for which a rotation would otherwise wait."""
    measured = Measured(OLD)
    with beating(measured):
        measured.vitals = BOTH
        row = eventually(ServerProcess.objects.filter(primary_key_id="new").first)
    assert row.key_ids == {"old": "00", "new": "11"}


def test_same_keys_are_not_written_at_every_poll() -> None:
    polls = threading.Semaphore(0)

    def measure() -> Vitals:
        polls.release()
        return Vitals("old", {"old": "00"})  # equal, not the same object

    with beating(measure):
        seen = ServerProcess.objects.get().seen_at
        for _ in range(10):
            assert polls.acquire(timeout=60)
        assert ServerProcess.objects.get().seen_at == seen


def test_load_is_written_at_every_beat(always_writes: None) -> None:
    measured = Measured(OLD)
    with beating(measured):
        first = ServerProcess.objects.get()
        measured.vitals = Vitals("old", {"old": "00"}, waiting=12)
        row = eventually(ServerProcess.objects.filter(waiting=12).first)
    assert row.seen_at > first.seen_at
    assert (row.pk, row.started_at) == (first.pk, first.started_at)


def test_outage_of_the_database_ends_no_heartbeat(fail: list[Exception], caplog: pytest.LogCaptureFixture) -> None:
    fail += [OperationalError("the password is sk-canary") for _ in range(3)]
    with beating():  # which returns although nothing could be written
        eventually(ServerProcess.objects.exists)
    assert caplog.text.count("heartbeat_failed kind=OperationalError") == 1
    assert "failures=3" in caplog.text
    assert "sk-canary" not in caplog.text


def test_failed_measurement_ends_no_heartbeat(caplog: pytest.LogCaptureFixture) -> None:
    measured = Measured(None)
    with beating(measured):
        assert not ServerProcess.objects.exists()
        measured.vitals = OLD
        eventually(ServerProcess.objects.exists)
    assert "heartbeat_failed kind=OSError" in caplog.text
    assert "sk-canary" not in caplog.text


def test_stop_is_bounded_if_the_database_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "STOP_SECONDS", 0.05)
    answers = threading.Event()
    monkeypatch.setattr(heartbeats, "remove", lambda _: answers.wait(60))
    heartbeat = Heartbeat("proxy", lambda: OLD)
    heartbeat.start()
    heartbeat.stop()
    assert heartbeat._thread is not None
    assert heartbeat._thread.is_alive()  # it still waits for the answer
    answers.set()
    heartbeat._thread.join(60)


def test_no_connection_is_kept_between_beats() -> None:
    """Other threads of this process may have theirs, left from other tests."""

    def databases() -> list[str]:
        return sorted(path for path in open_files() if path.startswith(str(connection.settings_dict["NAME"])))

    connection.close()  # the one of this test
    before = databases()
    with beating():
        assert databases() == before


def test_only_live_processes_of_both_kinds_are_running() -> None:
    rows = {name: uuid4() for name in ("proxy", "killed", "web")}
    for name, process_id in rows.items():
        heartbeats.record(process_id, "web" if name == "web" else "proxy", Vitals(), timezone.now())
    killed = ServerProcess.objects.filter(pk=rows["killed"])
    killed.update(seen_at=Now() - timedelta(seconds=heartbeats.EXPIRY_SECONDS + 1))
    assert [row.pk for row in heartbeats.running()] == [rows["proxy"], rows["web"]]


def test_rows_of_killed_processes_are_deleted_after_a_day() -> None:
    old, recent = uuid4(), uuid4()
    for process_id, hours in ((old, 25), (recent, 23)):
        heartbeats.record(process_id, "proxy", OLD, timezone.now())
        ServerProcess.objects.filter(pk=process_id).update(seen_at=Now() - timedelta(hours=hours))
    with beating():
        pass
    assert [row.pk for row in ServerProcess.objects.all()] == [recent]


def test_row_of_an_older_version_counts_as_a_proxy() -> None:
    """During an upgrade, processes of the version before write rows without the newer columns."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO credentials_serverprocess (id, name, primary_key_id, key_ids, seen_at) "
            "VALUES (%s, 'host:1', 'old', '{}', CURRENT_TIMESTAMP)",
            [uuid4().hex],
        )
    [row] = heartbeats.running()
    assert (row.kind, row.version, row.in_flight, row.in_flight_total, row.lost) == ("proxy", "", {}, 0, 0)
