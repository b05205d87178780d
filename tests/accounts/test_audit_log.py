"""The audit log: atomic with the change, append-only, and visible only to its user and staff."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import time_machine
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts import access_tokens, audit, audit_log, retention
from accounts.actors import OPERATOR, Actor, Person
from accounts.audit_chain import VerifierKey
from accounts.errors import AppendOnly
from accounts.models import AccessToken, AuditEvent, BrowserSession, SignInLink, User
from accounts.plain_text import is_plain
from proxy import audit_checkpoints

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
        Person(user, "192.0.2.1"), "token.issued", account=user, subject_type="t", subject_id="1", subject_label=label
    )
    return AuditEvent.objects.latest("pk")


def test_rolled_back_change_leaves_no_event(alice: User) -> None:
    with transaction.atomic():
        access_tokens.create(actor=Person(alice), user=alice, label="x")
        assert AuditEvent.objects.exists()
        transaction.set_rollback(True)
    assert not AccessToken.objects.exists()
    assert not AuditEvent.objects.exists()


def test_change_fails_if_its_event_cannot_be_written(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseError

    monkeypatch.setattr(audit, "record", fail)
    with pytest.raises(DatabaseError):
        access_tokens.create(actor=Person(alice), user=alice, label="x")
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
def test_sqlite_refuses_changes(alice: User, statement: str) -> None:
    add(alice)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert AuditEvent.objects.get().action == "token.issued"


def test_queryset_changes_are_refused(alice: User) -> None:
    add(alice)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditEvent.objects.update(ip=None)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditEvent.objects.all()._raw_delete(using="default")


@pytest.mark.postgres
def test_postgresql_refuses_all_but_old_deletions(migrated_url: str) -> None:
    insert = (
        "INSERT INTO accounts_auditevent (action, subject_type, subject_id, subject_label, at) VALUES (%s,'','','',%s)"
    )
    with psycopg.connect(migrated_url, autocommit=True) as direct:
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


def test_pruning_keeps_a_year_or_request_retention(alice: User, settings: Settings) -> None:
    now = timezone.now()
    for days in (1, 364, 366, 800):
        AuditEvent.objects.create(action=f"d{days}", account=alice, at=now - timedelta(days=days))
    settings.STRAKE_RETENTION_DAYS = 700
    assert retention.prune(retention.outdated(now)["audit events"]) == 1
    settings.STRAKE_RETENTION_DAYS = 30
    assert retention.prune(retention.outdated(now)["audit events"]) == 1
    assert set(AuditEvent.objects.values_list("action", flat=True)) == {"d1", "d364"}


def test_pruning_allows_for_clock_skew(alice: User) -> None:
    ahead = timezone.now() + timedelta(minutes=50)
    for minutes in (0, 10, 40):
        at = ahead - timedelta(days=365, minutes=minutes + 1)
        AuditEvent.objects.create(action=f"m{minutes}", account=alice, at=at)
    with time_machine.travel(ahead):  # this process and not the database
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


def test_people_see_their_events_and_staff_all(client: Client, alice: User, bob: User) -> None:
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


def test_visible_events_depend_on_the_actor(alice: User, bob: User) -> None:
    add(alice, "hers")
    add(bob, "his")

    def labels(actor: Actor, *, everybody: bool = False) -> set[str]:
        return set(AuditEvent.objects.visible_to(actor, everybody=everybody).values_list("subject_label", flat=True))

    assert labels(Person(alice), everybody=True) == {"hers"}
    assert labels(OPERATOR) == {"hers", "his"}
    alice.is_staff = True
    assert labels(Person(alice)) == {"hers"}
    assert labels(Person(alice), everybody=True) == {"hers", "his"}


def test_filters_apply_and_invalid_ones_are_errors(client: Client, alice: User) -> None:
    add(alice, "needle")
    audit.record(Person(alice), "token.revoked", account=alice, subject_type="t", subject_id="2", subject_label="hay")
    client.force_login(alice)

    def subjects(query: str) -> set[str]:
        return {event.subject_label for event, *_ in client.get(f"/audit/?{query}").context["rows"]}

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
    assert rows[0] == list(audit_log.CSV_COLUMNS)
    assert len(rows) == 1 + len(NASTY)
    assert all(len(row) == len(audit_log.CSV_COLUMNS) for row in rows)
    subjects = {row[5] for row in rows[1:]}
    assert "'=1+1" in subjects
    assert not any(cell.startswith(("=", "+", "-", "@", "\uff1d")) for row in rows for cell in row)
    assert all(cell.isprintable() for row in rows for cell in row)
    assert "\x1b" not in page
    assert "\u202e" not in page


@pytest.mark.parametrize("start", "=+-@\t\r\uff1d\uff0b\uff0d\uff20")
def test_csv_escapes_formulas(alice: User, start: str) -> None:
    AuditEvent.objects.create(action="x", account=alice, subject_label=f"{start}1+1")
    [_, row] = csv.reader(audit_log.csv_lines(AuditEvent.objects.all()))
    assert row[5] == f"'{start}1+1"


@pytest.mark.parametrize("separator", [";", ",", "|", "\t", "; ", '"', "'"])
def test_csv_escapes_formulas_after_a_separator(alice: User, separator: str) -> None:
    """A spreadsheet of another country takes another character for the separator, and then quotes do not help."""
    AuditEvent.objects.create(
        action="x", account=alice, subject_label=f"x{separator}=1+1;y-2", details={"from": "=1+1", "to": "a;@b"}
    )
    [_, row] = csv.reader(audit_log.csv_lines(AuditEvent.objects.all()))
    assert row[5] == f"x{separator}'=1+1;y-2"
    assert json.loads(row[9]) == {"from": "'=1+1", "to": "a;'@b"}


def test_csv_quotes_every_cell_and_keeps_its_columns(alice: User) -> None:
    audit.record(
        Person(alice, "192.0.2.1", "session ab12cd"),
        "endpoint.renamed",
        account=alice,
        subject_type="endpoint",
        subject_id="x",
        details={"from": "a, b", "to": "c"},
    )
    lines = list(audit_log.csv_lines(AuditEvent.objects.all()))
    assert all(re.fullmatch(r'("([^"]|"")*",)*"([^"]|"")*"\r\n', line) for line in lines)
    [header, row] = csv.reader(lines)
    assert header[:8] == ["at", "action", "actor", "subject_type", "subject_id", "subject", "address", "account"]
    assert dict(zip(header, row, strict=True))["via"] == "session ab12cd"
    assert json.loads(row[9]) == {"from": "a, b", "to": "c"}


def test_page_says_what_changed_and_through_what(client: Client, alice: User) -> None:
    audit.record(
        Person(alice, "192.0.2.1", "session ab12cd"),
        "destination.changed",
        account=alice,
        subject_type="endpoint",
        subject_id="x",
        details={
            "from": "https://a.example",
            "to": "https://b.example",
            "header_from": "A",
            "header_to": "B",
            "sealed_at": "2026-11-29T10:00:59+00:00",
            "x": None,
        },
    )
    client.force_login(alice)
    page = " ".join(client.get("/audit/").content.decode().split())
    line = "from https://a.example → https://b.example · header from A → B · sealed at: 2026-11-29 10:00 UTC"
    assert f"{line} · via session ab12cd" in page


def test_details_are_plain_and_short(alice: User) -> None:
    audit.record(
        Person(alice, via="session \x1b" + "x" * 100),
        "endpoint.renamed",
        account=alice,
        subject_type="endpoint",
        subject_id="x",
        details={"from": "\x1b[31m" + "x" * 1000, "to": ["\u202e", 1, None, True]},
    )
    event = AuditEvent.objects.latest("pk")
    assert is_plain(str(event.details) + event.via)
    assert len(event.details["from"]) == 512
    assert event.details["to"] == ["\ufffd", 1, None, True]
    assert len(event.via) == 80


def test_reading_everybodys_log_is_recorded(client: Client, alice: User, bob: User) -> None:
    add(bob, "his")
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    client.force_login(alice)
    client.get("/audit/")
    assert not AuditEvent.objects.filter(action="audit.read").exists(), "her own"
    for _ in range(3):
        client.get("/audit/?everybody=on&text=bob")
    b"".join(client.get("/audit.csv?everybody=on"))
    events = list(AuditEvent.objects.filter(action="audit.read").order_by("pk"))
    session = BrowserSession.objects.get()
    acting = {"acting_id": session.pk, "acting_label": session.browser}
    assert [(event.subject_label, event.details) for event in events] == [
        ("Audit", {"text": "bob", **acting}),
        ("Audit, as CSV", acting),
    ]
    assert {event.account for event in events} == {alice}
    with time_machine.travel(timezone.now() + timedelta(minutes=61)):
        client.get("/audit/?everybody=on&text=bob")
    assert AuditEvent.objects.filter(action="audit.read").count() == 3


def test_recorded_readings_are_bounded(alice: User) -> None:
    for number in range(audit.READINGS_PER_HOUR + 5):
        audit.record_reading(Person(alice), "Audit", filters={"text": str(number)})
    events = AuditEvent.objects.filter(action="audit.read").order_by("pk")
    assert events.count() == audit.READINGS_PER_HOUR
    assert [event.details.get("more") for event in events][-2:] == [None, "not recorded this hour"]


def test_csv_applies_the_filters(client: Client, alice: User) -> None:
    add(alice, "needle")
    add(alice, "hay")
    client.force_login(alice)
    response = client.get("/audit.csv?text=needle")
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    body = b"".join(response).decode()
    assert "needle" in body
    assert "hay" not in body


def test_actor_label_without_a_user(alice: User, bob: User) -> None:
    event = add(alice)
    assert audit_log.actor_label(event) == "alice@example.org"
    assert audit_log.actor_label(AuditEvent(actor=None)) == "operator, at the command line"
    assert audit_log.actor_label(AuditEvent(actor=None, ip="192.0.2.1", via="")) == "nobody signed in"
    alice.delete()
    gone = AuditEvent.objects.select_related("actor", "account").get(pk=event.pk)
    assert audit_log.actor_label(gone) == "deleted account"


def test_every_recorded_action_has_a_label() -> None:
    """Searches the source for recorded actions."""
    recorded = set()
    for package in ("accounts", "credentials", "proxy", "strake"):
        for path in Path(package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "audit.record" in text or "_audit(" in text or path.name == "audit.py":
                recorded |= set(re.findall(r'"([a-z_]+\.[a-z_]+)"', text))
    assert recorded == set(audit_log.ACTIONS)


# --- Checkpoints ---------------------------------------------------------------------------------------------------


def test_checkpoint_is_public_and_its_key_is_on_the_page(client: Client, alice: User) -> None:
    assert client.get("/audit/checkpoint").status_code == 404
    add(alice)
    signed = audit_checkpoints.sign()
    assert signed is not None
    response = client.get("/audit/checkpoint")
    assert (response.status_code, response.content.decode()) == (200, signed.note)
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    client.force_login(alice)
    assert VerifierKey.parse(signed.key).fingerprint in client.get("/audit/").content.decode()
