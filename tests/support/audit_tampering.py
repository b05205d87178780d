"""Tamper with an audit log in every way, and print what `export_audit` would write then.

    python -m tests.support.audit_tampering

Prints one JSON object: the public key, a kept checkpoint, and for each manipulation the lines of the export. Every
manipulation is rolled back. Needs a migrated database of its own.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import django

django.setup()

from django.db import connection, connections, transaction  # noqa: E402

from accounts import audit, audit_chain, audit_export  # noqa: E402
from accounts.actors import OPERATOR  # noqa: E402
from accounts.models import AuditCheckpoint, AuditEvent, AuditLink, User  # noqa: E402
from accounts.users import erase  # noqa: E402
from proxy import audit_checkpoints  # noqa: E402
from proxy.audit_checkpoints import ChainBroken  # noqa: E402

WRITERS = 4
EVENTS_EACH = 15
TEXTS = ("plain", 'quoted "\\/', "tab\tand\x7f", "büro 𝄞 \u2028", "<&>'")


def record(label: str, **details: Any) -> None:
    audit.record(
        OPERATOR, "token.rotated", account=None, subject_type="t", subject_id=1, subject_label=label, **details
    )


def write_at_once() -> list[str]:
    """Record events on several connections at the same time. Returns the names of errors."""
    errors, barrier = [], threading.Barrier(WRITERS)

    def write() -> None:
        barrier.wait()
        try:
            for number in range(EVENTS_EACH):
                with transaction.atomic():
                    record(TEXTS[number % len(TEXTS)], details={"number": number, "list": ["b", 1, None], "on": True})
        except Exception as error:  # noqa: BLE001
            errors.append(repr(error))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=write) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def lines() -> list[str]:
    return [audit_export.line(event) for event in audit_export.events_after(0)]


# --- What somebody with the database can do ------------------------------------------------------------------------


def change() -> None:
    AuditEvent.objects.filter(pk=event_of(3)).update(subject_label="somebody else")


def backdate() -> None:
    link = AuditLink.objects.get(sequence=3)
    AuditLink.objects.filter(sequence=3).update(at=link.at.replace(year=2020))


def remove() -> None:
    drop(3)


def remove_and_renumber() -> None:
    drop(3)
    for sequence in range(4, last() + 1):
        AuditLink.objects.filter(sequence=sequence).update(sequence=sequence - 1)


def insert() -> None:
    for sequence in range(last(), 2, -1):
        AuditLink.objects.filter(sequence=sequence).update(sequence=sequence + 1)
    record("invented")
    settle()
    AuditLink.objects.filter(sequence=last()).update(sequence=3)


def reorder() -> None:
    for before, after in ((3, 0), (4, 3), (0, 4)):
        AuditLink.objects.filter(sequence=before).update(sequence=after)


def cut_the_tail() -> None:
    for sequence in range(last(), 4, -1):
        drop(sequence)
    AuditCheckpoint.objects.filter(size__gt=4)._raw_delete(using="default")


def rebuild() -> None:
    """Compute every hash again. Without the key, no checkpoint fits."""
    change()
    previous_hash = audit_chain.GENESIS
    for link in AuditLink.objects.order_by("sequence"):
        content_hash = audit_chain.content_hash(AuditEvent.objects.get(pk=link.event_id).content())
        at = audit_chain.timestamp(link.at)
        previous_hash = audit_chain.link_hash(
            sequence=link.sequence, at=at, content_hash=content_hash, previous_hash=previous_hash
        )
        AuditLink.objects.filter(sequence=link.sequence).update(content_hash=content_hash, hash=previous_hash)
    AuditCheckpoint.objects.all()._raw_delete(using="default")


def rebuild_and_forge_a_signature() -> None:
    key = audit_chain.VerifierKey.parse(AuditCheckpoint.objects.latest("pk").key)
    rebuild()
    digest = AuditLink.objects.get(sequence=last()).hash
    forged = audit_chain.Checkpoint(key.name, last(), digest, "2026-11-30T00:00:00.000000Z")
    note = audit_chain.write_note(forged, key, lambda text: bytes(64))
    AuditCheckpoint.objects.create(size=last(), note=note, key=str(key))


def rebuild_under_the_old_checkpoint() -> None:
    note = AuditCheckpoint.objects.latest("pk").note
    rebuild()
    AuditCheckpoint.objects.create(size=last(), note=note, key="")


def restore_and_go_on() -> None:
    """What a restored backup holds after some time: the server has restarted, and signs."""
    kept = last()
    cut_the_tail()
    while last() < kept:
        record("after the restore")
        settle()
    audit_checkpoints._seen.clear()
    audit_checkpoints.sign()


def erase_somebody() -> None:
    erase(actor=OPERATOR, user=User.objects.get(email="erased@example.org"), events=True)
    settle()


MANIPULATIONS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        *(change, backdate, remove, remove_and_renumber, insert, reorder, cut_the_tail),
        *(rebuild, rebuild_and_forge_a_signature, rebuild_under_the_old_checkpoint, restore_and_go_on, erase_somebody),
    )
}

# -------------------------------------------------------------------------------------------------------------------


def drop(sequence: int) -> None:
    AuditEvent.objects.filter(pk=event_of(sequence))._raw_delete(using="default")
    AuditLink.objects.filter(sequence=sequence)._raw_delete(using="default")


def event_of(sequence: int) -> int:
    return AuditLink.objects.get(sequence=sequence).event_id


def last() -> int:
    return AuditLink.objects.latest("sequence").sequence


def settle() -> None:
    """Let PostgreSQL do what it does when a transaction commits."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("SET CONSTRAINTS ALL DEFERRED")


def without_triggers() -> None:
    """Only the database's owner can do this, and whoever has the file of SQLite."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("DROP TRIGGER accounts_auditevent_no_change ON accounts_auditevent")
            for table in ("accounts_auditlink", "accounts_auditcheckpoint"):
                cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            return
        for (name,) in cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            cursor.execute(f"DROP TRIGGER {name}")


def tampered_by(manipulate: Callable[[], None]) -> list[str]:
    with transaction.atomic():
        if manipulate is not erase_somebody:
            without_triggers()
        manipulate()
        found = lines()
        transaction.set_rollback(True)
    return found


def refusal() -> str:
    """What the signer says of a rebuilt chain, in a process that has signed before."""
    with transaction.atomic():
        without_triggers()
        rebuild()
        try:
            audit_checkpoints.sign()
        except ChainBroken as error:
            return str(error)
        finally:
            transaction.set_rollback(True)
    return "signed"


def main() -> None:
    errors = write_at_once()
    with transaction.atomic():
        user = User.objects.create(email="erased@example.org")
        audit.record(
            *(OPERATOR, "user.created"), account=user, subject_type="user", subject_id=user.pk, subject_label=user.email
        )
    signed = audit_checkpoints.sign()
    assert signed is not None
    report: dict[str, Any] = {"errors": errors, "key": signed.key, "checkpoint": signed.note, "untouched": lines()}
    report |= {name: tampered_by(manipulate) for name, manipulate in MANIPULATIONS.items()}
    audit_checkpoints._seen.clear()
    audit_checkpoints.look()
    report["refusal"] = refusal()
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
