"""The audit trail: complete, in the same transaction, append-only, and shown to whom it concerns."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from datetime import timedelta

import psycopg
import pytest
import time_machine
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.utils import timezone

from accounts import access_tokens, audit, retention, trail
from accounts.audit import Actor
from accounts.errors import AppendOnly
from accounts.models import AccessToken, AuditEvent, SignInLink, User

pytestmark = pytest.mark.django_db

NASTY = [
    "=1+1",
    "\uff1d1+1",
    "a\r\nSet-Cookie: x",
    "\x1b[31mred",
    "<script>alert(1)</script>",
    "‮gnp.exe",
    "'; DROP TABLE x; --",
]


def add(user: User, label: str = "thing", **changes: object) -> AuditEvent:
    audit.record(
        Actor(user, "192.0.2.1"), "token.issued", account=user, subject_type="t", subject_id="1", subject_label=label
    )
    return AuditEvent.objects.latest("pk")


def test_rolled_back_deed_leaves_no_event(alice: User) -> None:
    with transaction.atomic():
        access_tokens.create_access_token(actor=Actor(alice), user=alice, label="x")
        assert AuditEvent.objects.exists()
        transaction.set_rollback(True)
    assert not AccessToken.objects.exists()
    assert not AuditEvent.objects.exists()


def test_deed_whose_event_cannot_be_written_does_not_happen(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseError

    monkeypatch.setattr(audit, "record", fail)
    with pytest.raises(DatabaseError):
        access_tokens.create_access_token(actor=Actor(alice), user=alice, label="x")
    assert not AccessToken.objects.exists()


def test_code_cannot_change_or_delete_events(alice: User) -> None:
    event = add(alice)
    event.action = "nothing.happened"
    with pytest.raises(AppendOnly):
        event.save()
    with pytest.raises(AppendOnly):
        event.delete()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts_auditevent SET action = 'nothing'",
        "UPDATE accounts_auditevent SET at = '2001-01-01 00:00:00'",
        "DELETE FROM accounts_auditevent",
        "REPLACE INTO accounts_auditevent (id, action, subject_type, subject_id, subject_label, at)"
        " SELECT id, 'nothing', '', '', '', at FROM accounts_auditevent",
        "INSERT INTO accounts_auditevent (id, action, subject_type, subject_id, subject_label, at)"
        " SELECT id, 'nothing', '', '', '', at FROM accounts_auditevent WHERE true"
        " ON CONFLICT (id) DO UPDATE SET action = 'nothing'",
    ],
)
def test_database_refuses_changes_too(alice: User, statement: str) -> None:
    add(alice)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert AuditEvent.objects.get().action == "token.issued"


def test_queryset_update_is_refused_by_the_database(alice: User) -> None:
    add(alice)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditEvent.objects.update(ip=None)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditEvent.objects.all()._raw_delete(using="default")


@pytest.mark.postgres
def test_postgresql_refuses_changes_and_lets_old_events_go(postgres_url: str) -> None:
    environment = {**os.environ, "DATABASE_URL": postgres_url}
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], env=environment, check=True)
    insert = (
        "INSERT INTO accounts_auditevent (action, subject_type, subject_id, subject_label, at) VALUES (%s,'','','',%s)"
    )
    with psycopg.connect(postgres_url, autocommit=True) as direct:
        direct.execute(insert, ["new", timezone.now()])
        direct.execute(insert, ["old", timezone.now() - timedelta(days=400)])
        for statement in [
            "UPDATE accounts_auditevent SET action = 'nothing'",
            "DELETE FROM accounts_auditevent WHERE action = 'new'",
            "TRUNCATE accounts_auditevent",
            "INSERT INTO accounts_auditevent (id, action, subject_type, subject_id, subject_label, at)"
            " SELECT id, 'nothing', '', '', '', at FROM accounts_auditevent"
            " ON CONFLICT (id) DO UPDATE SET action = 'nothing'",
        ]:
            with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="append-only"):
                direct.execute(statement)
        direct.execute("DELETE FROM accounts_auditevent WHERE action = 'old'")
        assert direct.execute("SELECT action FROM accounts_auditevent").fetchall() == [("new",)]


def test_pruning_keeps_a_year_and_longer_where_requests_are_kept_longer(alice: User, settings: object) -> None:
    now = timezone.now()
    for days in (1, 364, 366, 800):
        AuditEvent.objects.create(action=f"d{days}", account=alice, at=now - timedelta(days=days))
    settings.STRAKE_RETENTION_DAYS = 700  # type: ignore[attr-defined]
    assert retention.prune(retention.outdated(now)["audit events"]) == 1
    settings.STRAKE_RETENTION_DAYS = 30  # type: ignore[attr-defined]
    assert retention.prune(retention.outdated(now)["audit events"]) == 1
    assert set(AuditEvent.objects.values_list("action", flat=True)) == {"d1", "d364"}


def test_pruning_does_not_fail_where_the_database_is_behind(alice: User) -> None:
    ahead = timezone.now() + timedelta(minutes=50)
    for minutes in (0, 10, 40):
        at = ahead - timedelta(days=365, minutes=minutes + 1)
        AuditEvent.objects.create(action=f"m{minutes}", account=alice, at=at)
    with time_machine.travel(ahead):  # this process, but not the database
        assert retention.prune(retention.outdated(timezone.now())["audit events"]) == 0


def test_pruning_removes_links_only_after_a_day(alice: User) -> None:
    now = timezone.now()
    for hours in (0, 23, 25):
        SignInLink.objects.create(
            email="a@b.org",
            token_digest=bytes([hours]),
            created_at=now - timedelta(hours=hours + 1),
            expires_at=now - timedelta(hours=hours),
        )
    assert retention.prune(retention.outdated(now)["sign-in links"]) == 1


def test_people_see_their_own_trail_and_staff_all(client: Client, alice: User, bob: User) -> None:
    add(alice, "hers")
    add(bob, "his")
    client.force_login(alice)
    page = client.get("/audit/?everybody=on").content.decode()
    assert "hers" in page
    assert "his" not in page
    assert 'name="everybody"' not in page
    assert "his" not in b"".join(client.get("/audit.csv?everybody=on")).decode()
    alice.is_staff = True
    alice.save()
    assert "his" not in client.get("/audit/").content.decode()
    page = client.get("/audit/?everybody=on").content.decode()
    assert "hers" in page
    assert "his" in page


def test_filters_narrow_and_wrong_ones_are_named(client: Client, alice: User) -> None:
    add(alice, "needle")
    audit.record(Actor(alice), "token.revoked", account=alice, subject_type="t", subject_id="2", subject_label="hay")
    client.force_login(alice)

    def subjects(query: str) -> set[str]:
        return {event.subject_label for event, _, _ in client.get(f"/audit/?{query}").context["rows"]}

    assert subjects("") == {"needle", "hay"}
    assert subjects("text=need") == {"needle"}
    assert subjects("text=192.0.2") == {"needle"}
    assert subjects("action=token.revoked") == {"hay"}
    today = timezone.now().date()
    assert subjects(f"since={today}&until={today}") == {"needle", "hay"}
    assert subjects(f"until={today - timedelta(days=1)}") == set()
    wrong = client.get("/audit/?since=yesterday&action=nonesuch&page=x&text=%00")
    assert wrong.status_code == 400
    assert 'class="error"' in wrong.content.decode()


def test_markup_and_control_characters_stay_text(client: Client, alice: User) -> None:
    for label in NASTY:
        add(alice, label)
    client.force_login(alice)
    page = client.get("/audit/").content.decode()
    assert "<script>alert(1)" not in page
    rows = list(csv.reader(io.StringIO(b"".join(client.get("/audit.csv")).decode(), newline="")))
    assert rows[0] == list(trail.CSV_COLUMNS)
    assert len(rows) == 1 + len(NASTY)
    assert all(len(row) == len(trail.CSV_COLUMNS) for row in rows)
    subjects = {row[5] for row in rows[1:]}
    assert "'=1+1" in subjects
    assert not any(cell.startswith(("=", "+", "-", "@", "\uff1d")) for row in rows for cell in row)
    assert all(cell.isprintable() for row in rows for cell in row)
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_csv_honours_the_filters(client: Client, alice: User) -> None:
    add(alice, "needle")
    add(alice, "hay")
    client.force_login(alice)
    response = client.get("/audit.csv?text=needle")
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    body = b"".join(response).decode()
    assert "needle" in body
    assert "hay" not in body


def test_who_acted_is_told_also_when_they_are_gone(alice: User, bob: User) -> None:
    event = add(alice)
    assert trail.who(event) == "alice@example.org"
    assert trail.who(AuditEvent(actor=None)) == "operator, at the command line"
    assert trail.who(AuditEvent(actor=None, ip="192.0.2.1")) == "nobody signed in"
    alice.delete()
    gone = AuditEvent.objects.select_related("actor", "account").get(pk=event.pk)
    assert trail.who(gone) == "deleted account"


def test_every_action_in_use_has_words() -> None:
    """The code is searched for what it records, so that a new action cannot go without."""
    import re
    from pathlib import Path

    recorded = set()
    for package in ("accounts", "credentials", "proxy", "strake"):
        for path in Path(package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if path.name != "trail.py" and ("audit.record" in text or "_audit(" in text):
                recorded |= set(re.findall(r'"([a-z_]+\.[a-z_]+)"', text))
    assert recorded == set(trail.ACTIONS)
