"""The hash chain of the audit log: every way to tamper with it is found, on both databases."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from django.db import DatabaseError, connection, transaction
from psycopg import sql

from accounts import audit, audit_chain, audit_export, users
from accounts.actors import OPERATOR, Person
from accounts.audit_chain import Checkpoint, NotACheckpoint, NotAKey, VerifierKey
from accounts.models import AuditCheckpoint, AuditEvent, AuditLink, User
from accounts.verify_audit import Tampered, Verification, run
from proxy import audit_checkpoints, audit_key
from proxy.audit_checkpoints import ChainBroken
from tests.accounts.processes import run_together
from tests.support.postgres import Cluster
from tests.support.running import ROOT, Strake, prepare_home

# --- Manipulations -------------------------------------------------------------------------------------------------


class Tried(NamedTuple):
    """An installation without servers, and what tests/support/audit_tampering.py printed there."""

    strake: Strake
    report: dict[str, Any]


def try_everything(strake: Strake) -> Tried:
    command = [sys.executable, "-m", "tests.support.audit_tampering"]
    done = subprocess.run(command, cwd=ROOT, env=strake.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Tried(strake, json.loads(done.stdout))


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Tried:
    home = tmp_path_factory.mktemp("chain") / "strake"
    return try_everything(Strake(prepare_home(home, migrated_database)))


@pytest.fixture(scope="module")
def postgresql(postgres_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    name = f"strake_test_{secrets.token_hex(6)}"
    home = tmp_path_factory.mktemp("chain") / "strake"
    prepare_home(home)
    postgres_cluster.create_migrated(name)
    # The cluster, with its databases, is removed after the tests.
    return try_everything(Strake(home, {"DATABASE_URL": postgres_cluster.url_of(name)}))


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def tried(request: pytest.FixtureRequest) -> Tried:
    found: Tried = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def report(tried: Tried) -> dict[str, Any]:
    return tried.report


def verify(report: dict[str, Any], name: str, *, kept: bool = False) -> Verification:
    verification = Verification(VerifierKey.parse(report["key"]))
    if kept:
        verification.read_checkpoint(report["checkpoint"])
    verification.read(report[name])
    verification.finish()
    return verification


def test_events_of_several_writers_are_one_chain(report: dict[str, Any]) -> None:
    assert report["errors"] == []
    verification = verify(report, "untouched", kept=True)
    assert (verification.last, verification.signed, verification.erased) == (61, 61, 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("change", "Event 3 has been changed"),
        ("backdate", "Event 3 has been changed"),
        ("remove", "Event 3 is missing"),
        ("remove_and_renumber", "Event 3 has been changed"),
        ("insert", "Event 3 has been changed"),
        ("reorder", "Event 3 has been changed"),
        ("cut_the_tail", "No checkpoint was signed"),
        ("rebuild", "No checkpoint was signed"),
        ("rebuild_and_forge_a_signature", "is not valid"),
        ("rebuild_under_the_old_checkpoint", "An event from 1 to 61 has been changed"),
    ],
)
def test_tampering_is_found_without_a_kept_checkpoint(report: dict[str, Any], name: str, message: str) -> None:
    with pytest.raises(Tampered, match=message):
        verify(report, name)


def test_event_replaced_in_the_file_is_found(report: dict[str, Any]) -> None:
    """With hashes that fit its content, but not the next event."""
    lines = list(report["untouched"])
    event = json.loads(lines[2]) | {"subject_label": "somebody else"}
    event["content_hash"] = audit_chain.content_hash({name: event[name] for name in audit_chain.CONTENT_FIELDS})
    event["hash"] = audit_chain.link_hash(
        **{name: event[name] for name in ("sequence", "at", "content_hash", "previous_hash")}
    )
    lines[2] = audit_export.line(event)
    with pytest.raises(Tampered, match="Event 4 does not continue"):
        verify({**report, "replaced": lines}, "replaced", kept=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut_the_tail", "Event 5 is missing"),
        ("rebuild", "An event from 1 to 61 has been changed"),
        ("restore_and_go_on", "An event from 1 to 61 has been changed"),
    ],
)
def test_tampering_is_found_with_a_kept_checkpoint(report: dict[str, Any], name: str, message: str) -> None:
    with pytest.raises(Tampered, match=message):
        verify(report, name, kept=True)


def test_restored_chain_is_consistent_in_itself(report: dict[str, Any]) -> None:
    """Nobody but who kept a checkpoint can tell. SECURITY.md says so."""
    assert verify(report, "restore_and_go_on").signed == 61


def test_erased_content_leaves_a_chain_that_verifies(report: dict[str, Any]) -> None:
    assert "erased@example.org" in "".join(report["untouched"]), "the search would find it"
    assert "erased@example.org" not in "".join(report["erase_somebody"])
    assert verify(report, "erase_somebody", kept=True).erased >= 1
    [erased] = [event for line in report["erase_somebody"][60:61] if (event := json.loads(line))]
    assert set(erased) - {"checkpoint"} == {"sequence", "at", "content_hash", "previous_hash", "hash", "erased"}


def test_signer_refuses_a_rebuilt_chain(report: dict[str, Any]) -> None:
    assert "unlike in the checkpoint" in report["refusal"]


def test_crash_before_the_commit_leaves_neither_event_nor_link(tried: Tried) -> None:
    code = """
import os
from django.db import transaction
from tests.support.audit_tampering import record
from accounts.models import AuditLink
last = AuditLink.objects.latest("sequence").sequence
{act}
"""
    crash = (
        "with transaction.atomic():\n    record('lost')\n    print('ready', flush=True)\n    os.kill(os.getpid(), 9)"
    )
    after = (
        "with transaction.atomic():\n    record('next')\n"
        "from accounts.models import AuditEvent\n"
        "print(AuditLink.objects.latest('sequence').sequence - last, end=' ')\n"
        "print(AuditEvent.objects.filter(subject_label='lost').count())"
    )
    crashed = subprocess.run(
        [sys.executable, "-c", "import django; django.setup()" + code.format(act=crash)],
        cwd=ROOT,
        env=tried.strake.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (crashed.returncode, crashed.stdout) == (-9, "ready\n")
    assert tried.strake.python(code.format(act=after)) == "1 0\n"


@pytest.mark.postgres
def test_nobody_waits_for_others_while_holding_the_chain(postgresql: Tried) -> None:
    """Foreign keys are checked when a transaction commits. Behind the chain's lock, these two would deadlock."""
    setup = """
import time
from django.db import transaction
from django.utils import timezone
from accounts.models import BrowserSession, User
from tests.support.audit_tampering import record
user, _ = User.objects.get_or_create(email="deadlock@example.org")
print("ready", flush=True)
sys.stdin.read()
with transaction.atomic():
"""
    holds = "    User.objects.select_for_update().get(pk=user.pk)\n    time.sleep(2)\n    record('holds the row')\n"
    inserts = (
        "    time.sleep(0.5)\n    record('refers to the row')\n    now = timezone.now()\n"
        "    times = dict(created_at=now, last_seen_at=now, expires_at=now)\n"
        "    BrowserSession.objects.create(user=user, key_digest='x', **times)\n"
    )
    done = run_together(postgresql.strake, [setup + holds, setup + inserts], wait_for="ready")
    assert [(process.returncode, process.stderr[-300:]) for process in done] == [(0, ""), (0, "")]


@pytest.mark.postgres
def test_servers_of_the_version_before_are_chained(postgresql: Tried) -> None:
    """They know no nonce."""
    with psycopg.connect(postgresql.strake.environment["DATABASE_URL"], autocommit=True) as database:
        row = database.execute(
            "INSERT INTO accounts_auditevent (action, subject_type, subject_id, subject_label)"
            " VALUES ('a.b', 't', '1', '') RETURNING id, length(nonce)"
        ).fetchone()
        assert row is not None
        found = database.execute("SELECT count(*) FROM accounts_auditlink WHERE event_id = %s", row[:1]).fetchone()
    assert (row[1], found) == (16, (1,))


@pytest.mark.postgres
def test_rows_can_be_copied_as_they_are(postgresql: Tried) -> None:
    """Links and events may come in any order in one transaction. An event that does not fit its link is refused."""
    copy = (
        "INSERT INTO accounts_auditevent (id, action, subject_type, subject_id, subject_label, nonce, at)"
        " VALUES (%s, 'a.b', 't', '1', %s, '\\x00', '2026-01-01Z')"
    )
    link = (
        "INSERT INTO accounts_auditlink SELECT sequence + 1, 100001, '2026-01-01Z',"
        " (SELECT accounts_audit_content_hash(e) FROM accounts_auditevent e WHERE id = 100001), repeat('0', 64)"
        " FROM accounts_auditlink ORDER BY sequence DESC LIMIT 1"
    )
    with psycopg.connect(postgresql.strake.environment["DATABASE_URL"]) as database:
        database.execute(copy, (100001, "copied"))
        database.execute(link)
        database.execute("SET CONSTRAINTS ALL IMMEDIATE")
        assert database.execute("SELECT count(*) FROM accounts_auditlink WHERE event_id = 100001").fetchone() == (1,)
        with pytest.raises(psycopg.IntegrityError, match="append-only"):
            database.execute("UPDATE accounts_auditevent SET subject_label = 'changed' WHERE id = 100001")
        database.rollback()
        database.execute(
            "INSERT INTO accounts_auditlink SELECT sequence + 1, 100002, now(), repeat('0', 64), repeat('0', 64)"
            " FROM accounts_auditlink ORDER BY sequence DESC LIMIT 1"
        )
        database.execute(copy, (100002, "forged"))
        with pytest.raises(psycopg.IntegrityError, match="append-only"):
            database.execute("SET CONSTRAINTS ALL IMMEDIATE")


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at", "infinity"),
        ("at", "200000-01-01Z"),
        ("at", "0001-01-01Z BC"),
        ("ip", "192.0.2.0/24"),
        ("details", '{"number": 1.50}'),
        ("details", '{"list": [9007199254740992]}'),
        ("details", '{"number": 1e400}'),
        ("details", '{"list": [[[[[[[[[]]]]]]]]]}'),
        ("details", '{"ü": 1, "\U0001d11e": 2}'),
    ],
)
def test_events_that_nobody_could_verify_are_refused(postgresql: Tried, column: str, value: str) -> None:
    """Else the web half's password would be enough to end signing and verification for ever."""
    values = {"action": "a.b", "subject_type": "t", "subject_id": "1", "subject_label": "", column: value}
    statement = sql.SQL("INSERT INTO accounts_auditevent ({}) VALUES ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Literal, values.values()))
    )
    with psycopg.connect(postgresql.strake.environment["DATABASE_URL"]) as database:
        database.execute(statement)
        with pytest.raises(psycopg.IntegrityError, match="audit events have"):
            database.commit()


# --- In this process, on SQLite ------------------------------------------------------------------------------------


def add(label: str = "thing") -> None:
    audit.record(OPERATOR, "token.issued", account=None, subject_type="t", subject_id="1", subject_label=label)


@pytest.fixture
def key(tmp_path: Path, settings: Any) -> VerifierKey:
    settings.STRAKE_AUDIT_KEY_FILE = str(tmp_path / "audit-key")
    return audit_key.create(tmp_path / "audit-key")


@pytest.mark.django_db(transaction=True)
def test_event_without_its_link_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise DatabaseError

    monkeypatch.setattr(AuditLink, "append", fail)
    with pytest.raises(DatabaseError):
        add()
    assert not AuditEvent.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts_auditlink SET hash = ''",
        "DELETE FROM accounts_auditlink",
        "INSERT OR REPLACE INTO accounts_auditlink SELECT sequence, event_id + 9, at, '', '' FROM accounts_auditlink",
        "UPDATE accounts_auditcheckpoint SET note = ''",
        "DELETE FROM accounts_auditcheckpoint",
        "DELETE FROM accounts_auditevent",
    ],
)
def test_chain_is_append_only(statement: str, key: VerifierKey, alice: User) -> None:
    audit.record(Person(alice), "token.issued", account=alice, subject_type="t", subject_id="1")
    audit_checkpoints.sign()
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.django_db
def test_erasing_somebody_keeps_the_events_of_others(alice: User, bob: User) -> None:
    for user in (alice, bob):
        audit.record(Person(user), "token.issued", account=user, subject_type="t", subject_id="1")
    assert users.erase(actor=OPERATOR, user=alice, events=True) >= 1
    assert not AuditEvent.objects.filter(account_id=alice.pk).exists()
    assert AuditEvent.objects.filter(account=bob).count() == 1
    assert AuditEvent.objects.get(action="audit.erased").account is None


@pytest.mark.django_db
def test_signer_refuses_a_checkpoint_that_was_changed(key: VerifierKey) -> None:
    add()
    signed = audit_checkpoints.sign()
    assert signed is not None
    AuditCheckpoint.objects.create(size=1, key=str(key), note=signed.note.replace("\n1\n", "\n0\n"))
    with pytest.raises(ChainBroken, match="has been changed"):
        audit_checkpoints.sign()


@pytest.mark.django_db
def test_signer_trusts_no_copy_of_an_earlier_checkpoint(key: VerifierKey) -> None:
    """Else a restarted signer would sign what contradicts the later one."""
    add()
    first = audit_checkpoints.sign()
    add()
    audit_checkpoints.sign()
    assert first is not None
    audit_checkpoints._seen.clear()
    AuditCheckpoint.objects.create(size=1, key=str(key), note=first.note)
    assert audit_checkpoints._trusted(audit_key.load())[0] == 2
    AuditCheckpoint.objects.create(size=9, key=str(key), note=first.note)
    with pytest.raises(ChainBroken, match="has been changed"):
        audit_checkpoints.sign()


@pytest.mark.django_db
def test_verification_says_what_no_checkpoint_counts(key: VerifierKey, tmp_path: Path) -> None:
    add()
    audit_checkpoints.sign()
    add()
    add()
    lines = [audit_export.line(event) for event in audit_export.events_after(0)]
    (tmp_path / "all").write_text("".join(lines))
    (tmp_path / "rest").write_text("".join(lines[1:]))
    (tmp_path / "kept").write_text(AuditCheckpoint.objects.get().note)
    said = run(str(tmp_path / "all"), str(key), [], 0)
    assert said.startswith("Events 1 to 1 are unchanged. After event 1, nothing is signed yet")
    with pytest.raises(Tampered, match="No checkpoint counts any"):
        run(str(tmp_path / "rest"), str(key), [str(tmp_path / "kept")], 1)


@pytest.mark.django_db
def test_checkpoint_is_due_once_an_hour(key: VerifierKey) -> None:
    add()
    assert audit_checkpoints.sign(only_if_due=True) is not None
    assert audit_checkpoints.sign(only_if_due=True) is None


def test_note_has_the_form_of_c2sp() -> None:
    """The key and the signature of the example in signed-note.md's Go implementation, golang.org/x/mod/sumdb/note."""
    key = VerifierKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    assert str(key) == "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    checkpoint = Checkpoint("PeterNeumann", 7, "ab" * 32, "2026-11-30T09:00:00.000000Z")
    note = audit_chain.write_note(checkpoint, key, lambda text: bytes(64))
    encoded = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s="
    assert note.startswith(f"PeterNeumann\n7\n{encoded}\n2026-11-30T09:00:00.000000Z\n\n\u2014 PeterNeumann x08go")
    assert audit_chain.read_note(note, key, lambda signature, text: True) == checkpoint
    with pytest.raises(NotACheckpoint, match="signature is wrong"):
        audit_chain.read_note(note, key, lambda signature, text: False)


@pytest.mark.parametrize(
    "text", ["", "a+b", "a+00000000+AAAA", "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"]
)
def test_wrong_keys_are_refused(text: str) -> None:
    with pytest.raises(NotAKey):
        VerifierKey.parse(text)


@pytest.mark.django_db
def test_repeated_name_in_a_line_is_found(key: VerifierKey) -> None:
    """Other readers of JSON could take the first of the two values."""
    add()
    audit_checkpoints.sign()
    [line] = [audit_export.line(event) for event in audit_export.events_after(0)]
    verification = Verification(key)
    with pytest.raises(Tampered, match="no event"):
        verification.read([line.replace('"action"', '"action":"x","action"', 1)])


def test_offline_verification_loads_no_django(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    code = (
        "import sys, runpy\nsys.argv = ['verify_audit', 'empty', '--key', "
        "'PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW']\n"
        "try: runpy.run_module('accounts.verify_audit', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'django' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("1 False\n", "There is no event.\n")
