"""Expired rows go, by the command and by themselves, and none goes by a clock that may be wrong."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import OperationalError
from django.utils import timezone

from accounts import retention
from accounts.models import AuditEvent, SignInLink, User
from proxy.models import RefusalCount, RequestRecord, RequestRollup
from strake import pruning
from tests.support import factories
from tests.support.factories import Connected
from tests.support.running import Strake
from tests.support.upstream import eventually

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("prune", *arguments, stdout=out)
    return " ".join(out.getvalue().split())


@pytest.fixture
def rows(alice: User, settings: Any) -> None:
    settings.STRAKE_RETENTION_DAYS = 10
    now = timezone.now()
    issued = factories.make_endpoint(owner=alice)
    for days in (1, 9, 11, 12):
        at = now - timedelta(days=days)
        RequestRecord.objects.create(endpoint=issued.endpoint, token=issued.token, status=200, latency_ms=1, at=at)
        RefusalCount.objects.create(
            endpoint=issued.endpoint, token=issued.token, minute=at, code="rate_limited", count=9, last_at=at
        )
        SignInLink.objects.create(
            email="a@b.org", token_digest=bytes([days]), created_at=at - timedelta(1), expires_at=at
        )
    for days in (300, 400):
        AuditEvent.objects.create(action="test", account=alice, at=now - timedelta(days=days))


def test_only_expired_rows_are_removed(rows: None) -> None:
    report = run()
    assert "2 request records removed" in report
    assert "2 counts of refusals removed" in report
    assert "1 audit events removed" in report
    assert RequestRecord.objects.count() == RefusalCount.objects.count() == 2
    assert SignInLink.objects.count() == 0
    assert AuditEvent.objects.count() == 1
    assert "0 request records removed" in run()


def test_dry_run_removes_nothing(rows: None) -> None:
    assert "2 request records would be removed" in run("--dry-run")
    assert RequestRecord.objects.count() == 4
    assert AuditEvent.objects.count() == 2


def test_rows_are_removed_in_batches(
    rows: None, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr(retention, "_BATCH_SIZE", 1)
    with django_assert_num_queries(5):  # two batches of SELECT and DELETE, and a last SELECT
        assert retention.prune(RequestRecord.objects.filter(at__lt=timezone.now() - timedelta(days=10))) == 2


# --- By itself -----------------------------------------------------------------------------------------------------


def test_expired_rows_go_once_an_hour(rows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pruning.run_in_turn()
    assert RequestRecord.objects.count() == RefusalCount.objects.count() == 2
    RequestRecord.objects.update(at=timezone.now() - timedelta(days=20))
    pruning.run_in_turn()
    assert RequestRecord.objects.count() == 2, "another process has had its turn"
    with time_machine.travel(timezone.now() + timedelta(seconds=pruning.EVERY_SECONDS + 1)):
        pruning.run_in_turn()
    assert RequestRecord.objects.count() == 0


def test_error_does_not_end_the_thread(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        if len(calls) > 3:
            threading.Event().wait()  # for ever: what this test patches lasts no longer than the test
        raise OperationalError("could not connect to db.example.org")

    monkeypatch.setattr(pruning, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(pruning, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(pruning, "run_in_turn", fail)
    pruning.start()
    eventually(lambda: len(calls) > 3)
    assert "pruning_failed kind=OperationalError" in caplog.text
    assert "example.org" not in caplog.text


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_running_strake_prunes(database: str, migrated_home: Path, request: pytest.FixtureRequest) -> None:
    url = {"DATABASE_URL": request.getfixturevalue("migrated_url")} if database == "postgresql" else {}
    strake = Strake(migrated_home, url)
    endpoint = strake.connect("https://api.example.com")
    strake.python(RECORDS, endpoint.subdomain)
    with strake:
        eventually(lambda: strake.call("count_records", subdomain=endpoint.subdomain)["count"] == 1)
    assert "pruning" not in strake.log()


RECORDS = """
import time
from credentials.models import Endpoint
from proxy.request_log.writer import Entry, write
endpoint = Endpoint.objects.get(subdomain=sys.argv[1])
write([Entry(endpoint.pk, endpoint.tokens.get().pk, 200, 1, 1, time.time() - 86_400 * days) for days in (0, 32, 33)])
"""


# --- The clock -----------------------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def look(days: float = 0.0, *, trust: bool = False) -> bool:
    """Whether the clock is trusted when it shows `NOW` and so many days."""
    try:
        pruning.check_clock(NOW + timedelta(days=days), trust=trust)
    except pruning.ImplausibleClock:
        return False
    return True


def note(connected: Connected, days: float) -> None:
    """Count a request at `NOW` and so many days."""
    hour = (NOW + timedelta(days=days)).replace(minute=0)
    RequestRollup.objects.update_or_create(
        endpoint=connected.endpoint,
        token=connected.token,
        hour=hour,
        status_class=2,
        defaults={"count": 1, "latency_max_ms": 1, "latency_histogram": {}},
    )


@pytest.fixture
def connected(alice: User) -> Connected:
    return factories.make_endpoint(owner=alice)


def test_clock_near_the_newest_request_is_trusted(connected: Connected) -> None:
    note(connected, -1.9)
    assert look()


def test_clock_is_trusted_while_there_are_no_requests(db: None) -> None:
    assert look()


def test_clock_a_month_ahead_is_doubted(connected: Connected) -> None:
    """Before the first look ever, after a jump, and while requests are recorded by other clocks."""
    note(connected, 0)
    assert not look(31)
    assert not look(31.04)


def test_clock_that_jumps_is_doubted_for_a_week(connected: Connected) -> None:
    """Also if the requests after the jump are recorded by the same clock."""
    note(connected, 0)
    assert look()
    note(connected, 31)
    for day in range(31, 38):
        assert not look(day)
    assert look(38)


def test_clock_of_its_own_is_doubted_for_ever(connected: Connected) -> None:
    for day in range(20):
        note(connected, day)
        assert not look(31 + day)


def test_clock_that_is_put_right_is_trusted_a_week_later(connected: Connected) -> None:
    note(connected, 0)
    assert look()
    assert not look(31)
    assert not look(0.1)
    assert look(0.1, trust=True)
    assert look(0.2)


def test_unused_strake_is_pruned(connected: Connected) -> None:
    note(connected, 0)
    for day in range(60):
        assert look(day)


def test_requests_from_the_future_say_nothing(connected: Connected) -> None:
    """They are of a host whose clock is ahead."""
    note(connected, 40)
    note(connected, 0)
    assert not look(31)


def test_command_refuses_by_a_wrong_clock(rows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = timezone.now() + timedelta(days=31)
    monkeypatch.setattr(retention, "database_now", lambda: ahead)
    with pytest.raises(CommandError, match="If it is wrong, rows would be removed"):
        run()
    assert RequestRecord.objects.count() == 4
    assert "4 request records removed" in run("--trust-clock")
