"""Rotate the master key: rewrap every data key under the primary, while servers go on serving.

Only the three wrap columns of a row change; its ciphertext is not touched, and no provider key is opened. A row is
under one master key or under the other at any moment, and servers hold both, so requests never notice. The rows that
are left are the cursor: killed at any point, a rerun goes on where the last committed batch ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q, QuerySet

from accounts import audit
from accounts.audit import Actor
from credentials import keyring, keyring_guard, presence, sealing
from credentials.envelope import WrappedKey, stored_bytes
from credentials.errors import CannotOpen, ProcessesBehind, RotationRunning, UnknownMasterKey
from credentials.keyring import Keyring
from credentials.models import Credential, Endpoint, MasterKeyCheck, ServerProcess

_ADVISORY_LOCK = 0x5374_7261_6B65  # "Strake"


@dataclass
class Outcome:
    """What one run did. `stuck` are rows that do not open under the key they name: those need their key again."""

    primary_id: str
    rewrapped: int = 0
    stuck: set[UUID] = field(default_factory=set)


def pending(ring: Keyring) -> dict[str, int]:
    """How many rows wait under each master key that is not the primary."""
    return dict(Counter(_pending(ring).values_list("master_key_id", flat=True)))


def dry_run(ring: Keyring) -> set[UUID]:
    """Open and rewrap what a rotation would, and save nothing. Returns the rows that would be stuck."""
    rows = _pending(ring).values_list(*_Row._fields).iterator(chunk_size=500)
    return {row.id for row in map(_Row._make, rows) if _renewed(row, ring) is None}


def rotate(
    *, actor: Actor, batch: int = 200, wait_seconds: float = 30, on_progress: Callable[[int], None] = lambda rows: None
) -> Outcome:
    """Rewrap every data key under the primary master key; safe to kill and to run again.

    `on_progress` is told how many rows each batch finished. Raises `RotationRunning`, `ProcessesBehind` where a server
    has not loaded the primary key after `wait_seconds`, `KeyringError`, `WrongMasterKey` or `RetiredMasterKey`.
    """
    ring = keyring.configured()
    outcome = Outcome(ring.primary_id)
    with _only_one():
        # By check value: two hosts whose operators each made a key may both call theirs by the same id.
        check_value = ring.check_value(ring.primary_id).hex()
        wait_for_processes(lambda process: process.key_ids.get(ring.primary_id) == check_value, wait_seconds)
        # A second pass finds what a process sealed under the old key while the first one walked.
        while _pending(ring).exclude(pk__in=outcome.stuck).exists():
            _walk(ring, outcome, batch, on_progress)
        with transaction.atomic():
            keyring_guard.confirm(ring.primary_id)
            if outcome.rewrapped:
                audit.record(
                    actor,
                    "master_key.rotated",
                    account=None,
                    subject_type="master_key",
                    subject_id=ring.primary_id,
                    subject_label=f"{outcome.rewrapped} data keys rewrapped",
                )
    return outcome


def exposed_endpoints(ring: Keyring) -> QuerySet[Endpoint]:
    """Endpoints whose key was sealed before the primary was first used: an older master key could open it.

    Rewrapping cannot take that back from whoever has an older master key and a copy of the database.
    """
    first_use = MasterKeyCheck.objects.filter(pk=ring.primary_id).values("created_at")[:1]
    exposed = ~Q(credential__master_key_id=ring.primary_id) | Q(credential__sealed_at__lt=first_use)
    return Endpoint.objects.filter(exposed).select_related("owner").order_by("owner__email", "subdomain")


def wait_for_processes(is_ready: Callable[[ServerProcess], bool], seconds: float) -> None:
    """Return once every running server process is ready. Raises `ProcessesBehind` after `seconds`."""
    end = time.monotonic() + seconds
    while behind := [process.name for process in presence.running() if not is_ready(process)]:
        if time.monotonic() >= end:
            raise ProcessesBehind(behind)
        time.sleep(0.2)


class _Row(NamedTuple):
    id: UUID
    format: int
    master_key_id: str
    wrapped_dek: bytes
    wrapped_dek_iv: bytes


def _pending(ring: Keyring) -> QuerySet[Credential]:
    return Credential.objects.exclude(master_key_id=ring.primary_id).order_by("pk")


def _walk(ring: Keyring, outcome: Outcome, batch: int, on_progress: Callable[[int], None]) -> None:
    """One pass over the rows that are not under the primary, each batch in a transaction of its own."""
    last = UUID(int=0)
    while rows := [_Row(*row) for row in _pending(ring).filter(pk__gt=last).values_list(*_Row._fields)[:batch]]:
        # Rewrapped before the transaction begins, which others who want to write must wait for.
        renewed = [(row, wrap) for row in rows if (wrap := _renewed(row, ring)) is not None]
        outcome.stuck.update({row.id for row in rows} - {row.id for row, _ in renewed})
        with transaction.atomic():
            outcome.rewrapped += _save(renewed)
            # After the rows, as `services` does it: the other way round, two transactions could wait for each other.
            keyring_guard.confirm(ring.primary_id)
        on_progress(len(rows))
        last = rows[-1].id


def _renewed(row: _Row, ring: Keyring) -> WrappedKey | None:
    wrap = WrappedKey(str(row.master_key_id), stored_bytes(row.wrapped_dek), stored_bytes(row.wrapped_dek_iv))
    try:
        return sealing.rewrap(wrap, row.format, row.id, ring)
    except (CannotOpen, UnknownMasterKey):
        return None


def _save(renewed: list[tuple[_Row, WrappedKey]]) -> int:
    """Compare and set, row by row: whatever else wrote a row meanwhile has won. Returns how many were set.

    One prepared statement for all rows: through the ORM a rotation takes five times as long.
    """
    if not renewed:
        return 0
    native = connection.features.has_native_uuid_field
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE credentials_credential SET master_key_id = %s, wrapped_dek = %s, wrapped_dek_iv = %s "
            "WHERE id = %s AND master_key_id = %s AND wrapped_dek = %s",
            [
                (
                    new.master_key_id,
                    new.wrapped_dek,
                    new.wrapped_dek_iv,
                    row.id if native else row.id.hex,
                    row.master_key_id,
                    row.wrapped_dek,
                )
                for row, new in renewed
            ],
        )
        return int(cursor.rowcount)


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Hold the lock of rotations, which ends with the process however that ends. Raises `RotationRunning`."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [_ADVISORY_LOCK])
            if not cursor.fetchone()[0]:
                raise RotationRunning
        try:
            yield
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_ADVISORY_LOCK])
        return
    lock = os.open(f"{settings.DATABASES['default']['NAME']}.rotation", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RotationRunning from None
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout = 60000")  # SQLite's lock is not fair, and this work can wait
        yield
    finally:
        os.close(lock)
