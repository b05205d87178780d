"""Emptying SQLite's write-ahead log while another process uses the database."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.db import connection, transaction

from accounts import transactions
from accounts.models import User

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "canary-of-a-deleted-row@example.org"

OTHER_PROCESS = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
def read():
    database.execute("BEGIN")
    database.execute("SELECT count(*) FROM accounts_user").fetchone()
"""

READS = """
print("started", flush=True)
while True:
    read()
    time.sleep(0.002)
    database.execute("COMMIT")
"""

HOLDS = """
read()
print("started", flush=True)
time.sleep(1)
database.execute("COMMIT")
sys.stdin.read()
"""

WRITES = """
print("started", flush=True)
number = 0
while True:
    number += 1
    read()
    database.execute("COMMIT")
    database.execute("UPDATE accounts_user SET session_epoch = ? WHERE email = 'other@example.org'", [number])
    time.sleep(0.01)
"""


@pytest.fixture
def other_process() -> Iterator[Callable[[str], None]]:
    """Starts another process on the same database, and waits until it uses it."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> None:
        command = [sys.executable, "-c", OTHER_PROCESS + code, str(connection.settings_dict["NAME"])]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"

    yield start
    for process in started:
        assert process.poll() is None, "it has failed"
        process.kill()
        process.communicate()


@pytest.fixture
def log() -> Path:
    """The write-ahead log, which contains the secret."""
    User.objects.create(email="other@example.org")
    User.objects.create(email=SECRET)
    log = Path(f"{connection.settings_dict['NAME']}-wal")
    assert SECRET.encode() in log.read_bytes()
    return log


def delete() -> float:
    """Delete the secret. Returns how many seconds the log took."""
    with transaction.atomic():
        User.objects.get(email=SECRET).delete()
        transactions.secure_delete_on_commit()
        before = time.monotonic()
    return time.monotonic() - before


def busy_timeout() -> int:
    with connection.cursor() as cursor:
        (milliseconds,) = cursor.execute("PRAGMA busy_timeout").fetchone()
    return int(milliseconds)


@pytest.mark.parametrize("processes", [[READS], [READS] * 3, [WRITES], [READS, WRITES]])
def test_log_is_emptied_beside_a_busy_process(
    other_process: Callable[[str], None],
    log: Path,
    processes: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(transactions, "CHECKPOINT_SECONDS", 60)
    for code in processes:
        other_process(code)
    assert delete() < transactions.CHECKPOINT_SECONDS
    assert SECRET.encode() not in log.read_bytes()
    assert SECRET.encode() not in Path(connection.settings_dict["NAME"]).read_bytes()
    assert "write_ahead_log_not_emptied" not in caplog.text


def test_log_is_emptied_when_a_long_reader_ends(
    other_process: Callable[[str], None], log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transactions, "CHECKPOINT_SECONDS", 60)
    other_process(HOLDS)
    delete()
    assert log.stat().st_size == 0
    assert "write_ahead_log_not_emptied" not in caplog.text


def test_endless_reader_is_reported_in_bounded_time(
    other_process: Callable[[str], None], log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transactions, "CHECKPOINT_SECONDS", 0.5)
    other_process(HOLDS.replace("time.sleep(1)", "sys.stdin.read()"))
    before = busy_timeout()
    assert 0.3 < delete() < 60
    assert "write_ahead_log_not_emptied" in caplog.text
    assert busy_timeout() == before == 10_000


def test_writers_wait_only_briefly_while_a_reader_blocks_the_log(
    other_process: Callable[[str], None], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that waits inside SQLite holds the write lock, and the request log of the proxy half writes."""
    monkeypatch.setattr(transactions, "CHECKPOINT_SECONDS", 8)
    other_process(HOLDS.replace("time.sleep(1)", "sys.stdin.read()"))
    writer = """
database.execute("PRAGMA busy_timeout = 4000")
print("started", flush=True)
while True:
    database.execute("UPDATE accounts_user SET session_epoch = session_epoch + 1 WHERE email = 'other@example.org'")
    time.sleep(0.01)
"""
    other_process(writer)
    delete()
    # The fixture asserts that no write has failed.
