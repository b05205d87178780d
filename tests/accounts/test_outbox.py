"""The outbox: order, retries, leases, capacity, its thread, and several processes at once."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.core import mail
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now
from pytest_django import Settings

from accounts import outbox
from accounts.models import OutboxMail
from accounts.outbox import Kind
from tests.accounts.processes import printed, run_python, run_together
from tests.support.running import Strake


class Probe:
    """A kind of email that notes what happens to it. `work` runs before each is composed."""

    def __init__(self) -> None:
        self.composed: list[str] = []
        self.given_up: list[str] = []
        self.threads: set[str] = set()
        self.work: Callable[[], None] = lambda: None
        self.kind = Kind("probe", self._compose, self._give_up)

    def submit(self, name: str) -> bool:
        return outbox.submit(self.kind, f"{name}@example.org", {})

    def _compose(self, row: OutboxMail) -> mail.EmailMessage:
        name = row.email.partition("@")[0]
        self.composed.append(name)
        self.threads.add(threading.current_thread().name)
        if name == "fails":
            raise ValueError("secret@example.org was refused")
        self.work()
        return mail.EmailMessage("Probe", name, to=[row.email])

    def _give_up(self, row: OutboxMail) -> None:
        self.given_up.append(row.email.partition("@")[0])


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    probe = Probe()
    monkeypatch.setattr(outbox, "_kinds", {"probe": probe.kind})
    return probe


def pass_time(seconds: float) -> None:
    """Let every row be older, and due earlier, by `seconds`."""
    moved = timedelta(seconds=seconds)
    OutboxMail.objects.update(due_at=F("due_at") - moved, created_at=F("created_at") - moved)


# --- Sending -------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_emails_are_sent_once_in_order(probe: Probe) -> None:
    for name in "abc":
        assert probe.submit(name)
    assert outbox.waiting() == 3
    outbox.run_due()
    outbox.run_due()
    assert [message.body for message in mail.outbox] == ["a", "b", "c"]
    assert outbox.waiting() == 0


@pytest.mark.django_db
def test_failing_email_is_retried_after_pauses(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    probe.submit("fails")
    for attempt, pause in enumerate(outbox.RETRY_SECONDS, 1):
        outbox.run_due()
        pass_time(pause - 1)
        outbox.run_due()
        assert (len(probe.composed), outbox.has_due()) == (attempt, False)
        assert f"probe email failed with ValueError on attempt {attempt} and will be retried" in caplog.text
        pass_time(2)
        assert outbox.has_due()
    outbox.run_due()
    assert (len(probe.composed), probe.given_up, outbox.waiting()) == (5, ["fails"], 0)
    assert [record.levelname for record in caplog.records if "given up" in record.getMessage()] == ["ERROR"]
    assert "secret@example.org" not in caplog.text


@pytest.mark.django_db
def test_retry_does_not_delay_others(probe: Probe) -> None:
    probe.submit("fails")
    probe.submit("quick")
    outbox.run_due()
    assert [message.body for message in mail.outbox] == ["quick"]


@pytest.mark.django_db
def test_full_outbox_drops_and_logs(
    probe: Probe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox, "CAPACITY", 2)
    assert [probe.submit(name) for name in "abc"] == [True, True, False]
    assert "the outbox is full, dropped an email to a stranger" in caplog.text
    outbox.run_due()
    assert probe.submit("d")
    assert probe.composed == ["a", "b"]


@pytest.mark.django_db
def test_claimed_email_is_not_claimed_again_before_its_lease_ends(probe: Probe) -> None:
    probe.submit("a")
    assert outbox._claim() is not None
    pass_time(outbox.LEASE_SECONDS - 1)
    outbox.run_due()
    assert probe.composed == []
    pass_time(2)
    outbox.run_due()
    assert probe.composed == ["a"]


@pytest.mark.django_db
def test_lost_lease_changes_nothing(probe: Probe) -> None:
    """A process that stalls for longer than its lease must not reschedule or delete what another one sends."""
    probe.submit("fails")
    stalled = outbox._claim()
    assert stalled is not None
    pass_time(outbox.LEASE_SECONDS + 1)
    other = outbox._claim()
    assert other is not None
    before = OutboxMail.objects.values().get()
    outbox._attempt(stalled)
    assert OutboxMail.objects.values().get() == before


@pytest.mark.django_db
def test_email_is_given_up_if_every_process_dies(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    probe.submit("a")
    for _ in range(len(outbox.RETRY_SECONDS) + 1):
        assert outbox._claim() is not None
        OutboxMail.objects.update(due_at=Now())
    outbox.run_due()
    assert (probe.composed, probe.given_up, outbox.waiting()) == ([], ["a"], 0)
    assert "probe email took too long and was given up" in caplog.text


@pytest.mark.django_db
def test_outdated_email_is_not_sent(probe: Probe) -> None:
    probe.submit("a")
    pass_time(outbox.MAX_AGE.total_seconds() - 5)
    probe.submit("b")
    pass_time(10)
    outbox.run_due()
    assert (probe.composed, probe.given_up, outbox.waiting()) == (["b"], ["a"], 0)


@pytest.mark.django_db
def test_unknown_kind_is_left_to_others(probe: Probe) -> None:
    """During an upgrade, one process may submit what another does not know."""
    outbox.submit(Kind("new", probe.kind.compose, probe.kind.give_up), "new@example.org", {})
    outbox.run_due()
    assert (probe.composed, outbox.waiting()) == ([], 1)


@pytest.mark.django_db(transaction=True)
def test_looking_for_email_only_reads(probe: Probe) -> None:
    """Every process looks every second. On SQLite, a transaction would take the write lock."""
    connection.ensure_connection()
    writer = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 0")
    outbox.run_due()
    assert not outbox.has_due()
    writer.execute("ROLLBACK")
    writer.close()
    connection.close()  # the next connection has the usual timeout again


# --- The thread ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sender(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[outbox.Sender]:
    """The thread as in a server. It looks so rarely that a test notices if nobody wakes it."""
    monkeypatch.setattr(outbox, "POLL_SECONDS", 600)
    sender = outbox.Sender()
    monkeypatch.setattr(outbox, "_sender", sender)
    monkeypatch.setattr(outbox, "start", sender.start)
    yield sender
    sender.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def test_submitting_wakes_the_thread(probe: Probe, sender: outbox.Sender) -> None:
    for name in "ab":
        probe.submit(name)
        wait_for(lambda: outbox.waiting() == 0)
    assert probe.composed == ["a", "b"]
    assert probe.threads == {"strake-outbox"}


def test_thread_finds_email_of_other_processes(
    probe: Probe, sender: outbox.Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "POLL_SECONDS", 0.02)
    sender.start()
    OutboxMail.objects.create(kind="probe", email="a@example.org")
    wait_for(lambda: outbox.waiting() == 0)


def test_thread_survives_an_outage(
    probe: Probe, sender: outbox.Sender, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox, "POLL_SECONDS", 0.02)
    looks: list[int] = []

    def fail() -> None:
        looks.append(1)
        raise ConnectionError("postgres://user:password@host")

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "run_due", fail)
        sender.start()
        wait_for(lambda: len(looks) > 3)
    probe.submit("a")
    wait_for(lambda: outbox.waiting() == 0)
    assert caplog.text.count("the outbox failed with ConnectionError") == 1
    assert "password" not in caplog.text


def test_stop_sends_what_is_due_and_ends(probe: Probe, sender: outbox.Sender) -> None:
    sender.start()
    running = threading.Event()

    def hold() -> None:
        running.set()
        time.sleep(0.1)

    probe.work = hold
    for name in "abc":
        probe.submit(name)
    assert running.wait(60)
    sender.stop(60)
    assert sorted(probe.composed) == ["a", "b", "c"]
    assert outbox.waiting() == 0
    assert "strake-outbox" not in {thread.name for thread in threading.enumerate()}


def test_stop_does_not_wait_for_a_mail_server_that_hangs(probe: Probe, sender: outbox.Sender) -> None:
    held, running = threading.Event(), threading.Event()

    def hang() -> None:
        running.set()
        held.wait(90)

    probe.work = hang
    probe.submit("a")
    assert running.wait(60)
    before = time.monotonic()
    sender.stop(0.2)
    assert time.monotonic() - before < 60
    held.set()
    wait_for(lambda: outbox.waiting() == 0)
    wait_for(lambda: "strake-outbox" not in {thread.name for thread in threading.enumerate()})


@pytest.mark.usefixtures("transactional_db")
def test_proxy_half_sends_no_email(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.undo()  # the fixture that holds email back
    sender = outbox.Sender()
    monkeypatch.setattr(outbox, "_sender", sender)
    settings.STRAKE_PROCESS = "proxy"
    outbox.start()
    assert "strake-outbox" not in {thread.name for thread in threading.enumerate()}
    settings.STRAKE_PROCESS = "web"
    outbox.start()
    assert "strake-outbox" in {thread.name for thread in threading.enumerate()}
    sender.stop()


# --- Several processes ---------------------------------------------------------------------------------------------

# Notes every email in a file. One write with O_APPEND is atomic.
PROBE = """
import os, signal, sys, time
from django.db.models import F
from datetime import timedelta
from accounts import outbox
from accounts.models import OutboxMail

def compose(mail):
    note = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(note, f"{os.getpid()} {mail.email} {mail.attempts}\\n".encode())
    os.close(note)
    work()

def work():
    pass

kind = outbox.Kind("probe", compose, lambda mail: None)
outbox.register(kind)
"""


def code(notes: Path, text: str) -> str:
    return f"NOTES = {str(notes)!r}\n{PROBE}\n{text}"


def test_processes_never_send_the_same_email(installation: Strake, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    submit = "outbox.start = lambda: None\nfor n in range(150): outbox.submit(kind, f'{n}@example.org', {})"
    printed(run_python(installation, code(notes, submit)))
    send = """
def work():
    time.sleep(0.005)

print("ready", flush=True)
sys.stdin.readline()
while outbox.waiting():
    outbox.run_due()
"""
    for done in run_together(installation, [code(notes, send)] * 4, wait_for="ready"):
        printed(done)
    lines = [line.split() for line in notes.read_text().splitlines()]
    assert sorted(email for _, email, _ in lines) == sorted(f"{n}@example.org" for n in range(150))
    assert len({pid for pid, _, _ in lines}) > 1, "one process did everything"


def test_email_of_a_killed_process_is_sent_after_its_lease(installation: Strake, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    dying = """
def work():
    os.kill(os.getpid(), signal.SIGKILL)

outbox.submit(kind, "a@example.org", {})
time.sleep(60)
"""
    assert run_python(installation, code(notes, dying)).returncode == -9
    surviving = """
import json
counts = []
outbox.run_due()
counts.append(len(open(NOTES).readlines()))
OutboxMail.objects.update(due_at=F("due_at") - timedelta(seconds=outbox.LEASE_SECONDS))
outbox.run_due()
counts.append(len(open(NOTES).readlines()))
print(json.dumps([counts, outbox.waiting()]))
"""
    assert json.loads(printed(run_python(installation, code(notes, surviving)))) == [[1, 2], 0]
    assert [line.split()[1:] for line in notes.read_text().splitlines()] == [
        ["a@example.org", "1"],
        ["a@example.org", "2"],
    ]


def test_process_sends_its_email_before_it_exits(installation: Strake, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    done = run_python(installation, code(notes, "outbox.submit(kind, 'a@example.org', {})"))
    assert printed(done) == ""
    assert [line.split()[1:] for line in notes.read_text().splitlines()] == [["a@example.org", "1"]]
    assert printed(run_python(installation, code(notes, "print(outbox.waiting())"))) == "0"
