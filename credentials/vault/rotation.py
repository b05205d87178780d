"""Rotate the master key: rewrap every data key under the primary key while servers keep serving.

Only the three wrap columns of a row change. No provider key is opened, and no ciphertext changes. Servers hold the old
key and the new one, so they can open every row at any moment. The rows still under an old key are the only progress
state: after a kill, the next run continues behind the last committed batch. Access tokens that were bought with a key
are deleted, since servers can buy others.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q, QuerySet

from accounts import audit
from accounts.actors import Actor
from accounts.transactions import LockTaken, process_lock
from credentials.errors import CannotOpen, RotationRunning, UnknownMasterKey
from credentials.models import DerivedToken, Endpoint, SealedKey
from credentials.vault import key_holders, key_registry, keyring, unwrapping
from credentials.vault.envelope import WrappedKey, stored_bytes
from credentials.vault.keyring import Keyring
from credentials.vault.models import MasterKeyCheck

_ADVISORY_LOCK = 0x5374_7261_6B65  # "Strake"


@dataclass
class Outcome:
    """The result of one run. `stuck` holds the credentials that do not open and need their provider key again."""

    primary_id: str
    rewrapped: int = 0
    stuck: set[UUID] = field(default_factory=set)


def pending(ring: Keyring) -> dict[str, int]:
    """The number of rows under each master key that is not the primary."""
    return dict(Counter(_pending(ring).values_list("master_key_id", flat=True)))


def dry_run(ring: Keyring) -> set[UUID]:
    """Rewrap every data key without saving any. Returns the ids of the credentials that would be stuck."""
    rows = _pending(ring).values_list(*_Row._fields).iterator(chunk_size=500)
    with transaction.atomic():  # in which a cursor works behind a pooler too
        return {row.credential_id for row in map(_Row._make, rows) if _rewrapped(row, ring) is None}


def rotate(
    *,
    actor: Actor,
    batch: int = 200,
    wait_seconds: float = 30,
    no_server: bool = False,
    on_progress: Callable[[int], None] = lambda rows: None,
    on_wait: key_holders.OnWait = lambda behind: None,
) -> Outcome:
    """Rewrap every data key under the primary master key, `batch` rows in a transaction. Safe to kill and run again.

    `on_progress` is called with the number of rows of each finished batch, and `on_wait` with the servers that have not
    loaded the primary key, as by `key_holders.wait_until`. Raises `RotationRunning`, `KeyringError`,
    `WrongMasterKey`, `RetiredMasterKey`, `MasterKeyNotEverywhere` if a server has not loaded the primary key after
    `wait_seconds`, or `NoServerSeen` unless `no_server` says that none runs.
    """
    ring = keyring.reload()
    outcome = Outcome(ring.primary_id)
    with _rotation_lock():
        key_holders.wait_for_key(ring.primary_id, ring, seconds=wait_seconds, no_server=no_server, on_wait=on_wait)
        # A second pass finds rows that a process sealed under the old key during the first one.
        while _pending(ring).exclude(pk__in=outcome.stuck).exists():
            _rewrap_pass(ring, outcome, batch, on_progress)
        with transaction.atomic():
            key_registry.confirm(ring.primary_id, ring.check_value(ring.primary_id))
            # The next request of each endpoint buys another one. An empty row has no master key.
            DerivedToken.objects.exclude(master_key_id__in=[ring.primary_id, ""]).delete()
            if outcome.rewrapped:
                audit.record(
                    actor,
                    "master_key.rotated",
                    account=None,
                    subject_type="master_key",
                    subject_id=ring.primary_id,
                    subject_label=f"{outcome.rewrapped} data keys rewrapped",
                    details={"data_keys": outcome.rewrapped, "to": ring.primary_id},
                )
    return outcome


def exposed_endpoints(ring: Keyring) -> QuerySet[Endpoint]:
    """Endpoints whose provider key was sealed before the primary master key was first used.

    Somebody with an older master key and a copy of the database can open those keys, even after a rewrap.
    """
    first_use = MasterKeyCheck.objects.filter(pk=ring.primary_id).values("created_at")[:1]
    exposed = ~Q(credential__sealed_key__master_key_id=ring.primary_id) | Q(credential__sealed_at__lt=first_use)
    return Endpoint.objects.filter(exposed).select_related("owner").order_by("owner__email", "subdomain")


class _Row(NamedTuple):
    credential_id: UUID
    format: int
    master_key_id: str
    wrapped_dek: bytes
    wrapped_dek_iv: bytes


def _pending(ring: Keyring) -> QuerySet[SealedKey]:
    return SealedKey.objects.exclude(master_key_id=ring.primary_id).order_by("pk")


def _rewrap_pass(ring: Keyring, outcome: Outcome, batch: int, on_progress: Callable[[int], None]) -> None:
    """Go once over the rows that are not under the primary key, with one transaction for each batch."""
    last = UUID(int=0)
    while rows := [_Row(*row) for row in _pending(ring).filter(pk__gt=last).values_list(*_Row._fields)[:batch]]:
        # Rewrap before the transaction begins, because it keeps other writers waiting.
        renewed = [(row, wrapped) for row in rows if (wrapped := _rewrapped(row, ring)) is not None]
        outcome.stuck.update({row.credential_id for row in rows} - {row.credential_id for row, _ in renewed})
        with transaction.atomic():
            outcome.rewrapped += _save(renewed)
            # Lock the rows before the registry, as `Credential.save` does. The other order could deadlock with it.
            key_registry.confirm(ring.primary_id, ring.check_value(ring.primary_id))
        on_progress(len(rows))
        last = rows[-1].credential_id


def _rewrapped(row: _Row, ring: Keyring) -> WrappedKey | None:
    """The data key of a row under the primary key, or None if the row does not open."""
    wrapped = WrappedKey(str(row.master_key_id), stored_bytes(row.wrapped_dek), stored_bytes(row.wrapped_dek_iv))
    try:
        return unwrapping.rewrap(wrapped, row.format, row.credential_id, ring)
    except (CannotOpen, UnknownMasterKey):
        return None


def _save(renewed: list[tuple[_Row, WrappedKey]]) -> int:
    """Save each row that still holds the data key it was read with. Returns the number of rows saved.

    Uses one prepared statement for all rows, since a rotation through the ORM takes five times as long.
    """
    if not renewed:
        return 0
    native = connection.features.has_native_uuid_field
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE credentials_sealedkey SET master_key_id = %s, wrapped_dek = %s, wrapped_dek_iv = %s "
            "WHERE credential_id = %s AND master_key_id = %s AND wrapped_dek = %s",
            [
                (
                    new.master_key_id,
                    new.wrapped_dek,
                    new.wrapped_dek_iv,
                    row.credential_id if native else row.credential_id.hex,
                    row.master_key_id,
                    row.wrapped_dek,
                )
                for row, new in renewed
            ],
        )
        return int(cursor.rowcount)


@contextlib.contextmanager
def _rotation_lock() -> Iterator[None]:
    """Hold the lock that allows only one rotation. It is released even on SIGKILL. Raises `RotationRunning`."""
    if connection.vendor == "postgresql":
        try:
            with process_lock(_ADVISORY_LOCK):
                yield
        except LockTaken:
            raise RotationRunning from None
        return
    lock = os.open(f"{settings.DATABASES['default']['NAME']}.rotation", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RotationRunning from None
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout = 60000")  # SQLite's lock is not fair, and a rotation can wait.
        yield
    finally:
        os.close(lock)
