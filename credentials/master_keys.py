"""Making master keys and retiring them. Rotation itself, the walk over all rows, is `credentials.rotation`."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import transaction
from django.db.models.functions import Now

from accounts import audit
from accounts.audit import Actor
from credentials import keyring, keyring_guard, rotation
from credentials.errors import KeyringError, MasterKeyInUse, ProcessesBehind
from credentials.keyring import Keyring
from credentials.models import Credential, MasterKeyCheck


def keyring_file(path: str | None = None) -> Path:
    """The keyring file that commands change: `path`, or the configured one. Raises `KeyringError`."""
    if settings.STRAKE_MASTER_KEYS:
        raise KeyringError(
            "The master keys come from the environment variable STRAKE_MASTER_KEYS, which a command cannot change. "
            "Write its JSON into a file that only the service's user can read (chmod 600), set "
            "STRAKE_MASTER_KEYS_FILE to its path, remove STRAKE_MASTER_KEYS, restart, and run this again."
        )
    chosen = path or settings.STRAKE_MASTER_KEYS_FILE
    if not chosen:
        raise KeyringError("Say where the master keys are: --file PATH, or set STRAKE_MASTER_KEYS_FILE.")
    return Path(chosen)


def create(*, actor: Actor, path: Path, primary: bool, keys_lost: bool = False) -> tuple[str, Keyring]:
    """Add a fresh master key to the keyring at `path`, made if missing; return the key's id and the new keyring.

    A missing keyring beside sealed keys is refused unless `keys_lost` says that there is no backup. Raises
    `KeyringError`; then the file is as it was.
    """
    made = ""

    def add_key(ring: Keyring | None) -> str:
        nonlocal made
        if ring is None and not keys_lost and _sealed_keys_exist():
            raise KeyringError(
                f"{path} does not exist, but the database holds sealed keys, which a new master key cannot open. "
                "Restore the file from your backup. If it is lost for good, run this again with --keys-lost; every "
                "endpoint then needs its provider key again."
            )
        # An id that was ever used stands for its own key for ever, also when that key has left the keyring.
        made = keyring.new_key_id((*(() if ring is None else ring.ids), *_ids_ever_used()))
        return keyring.new_document(ring, key_id=made, primary=primary)

    ring = keyring.change_file(path, add_key)
    _record(actor, "master_key.created", made)
    return made, ring


def retire(*, actor: Actor, key_id: str, wait_seconds: float = 30) -> None:
    """End the use of a master key for sealing, for good, in every process, also one whose keyring is out of date.

    The keyring itself is left alone; `remove` takes the key out of it. Raises `UnknownMasterKey`, or `MasterKeyInUse`
    where the key is the primary, rows still need it, or servers still seal under it after `wait_seconds`.
    """
    ring = keyring.configured()
    value = ring.check_value(key_id)
    if key_id == ring.primary_id:
        raise MasterKeyInUse(f"{key_id} is the primary master key. Make another one first: manage.py create_master_key")
    try:
        rotation.wait_for_processes(lambda process: process.primary_key_id != key_id, wait_seconds)
    except ProcessesBehind as behind:
        raise MasterKeyInUse(f"Running servers still seal under {key_id}. {behind}") from None
    with transaction.atomic():
        check, _ = MasterKeyCheck.objects.get_or_create(pk=key_id, defaults={"check_value": value})
        # The same lock that every seal holds until it is committed (`keyring_guard.confirm`): either that seal is
        # counted here, or it finds the key retired.
        check = MasterKeyCheck.objects.select_for_update().get(pk=key_id)
        rows = Credential.objects.filter(master_key_id=key_id).count()
        if rows:
            raise MasterKeyInUse(
                f"{rows} sealed key{'s' if rows > 1 else ''} still need{'s' if rows == 1 else ''} {key_id}. "
                "Run first: manage.py rotate_master_key"
            )
        if check.retired_at is None:
            MasterKeyCheck.objects.filter(pk=key_id).update(retired_at=Now())
            audit.record(actor, "master_key.retired", account=None, subject_type="master_key", subject_id=key_id)


def remove(*, actor: Actor, path: Path, key_id: str) -> None:
    """Take a retired master key out of the keyring file. Raises `KeyringError`, `MasterKeyInUse` or `UnknownMasterKey`.

    Backups of the database from before need the keyring of their own day.
    """
    if not keyring_guard.is_retired(key_id):
        raise MasterKeyInUse(f"{key_id} has not been retired.")

    def without_key(ring: Keyring | None) -> str:
        if ring is None:
            raise KeyringError(f"{path} does not exist.")
        return keyring.document_without(ring, key_id)

    keyring.change_file(path, without_key)
    _record(actor, "master_key.removed", key_id)


def _sealed_keys_exist() -> bool:
    try:
        return keyring_guard.tables_exist() and Credential.objects.exists()
    except DatabaseError:
        return False  # no database yet: nothing is sealed


def _ids_ever_used() -> list[str]:
    try:
        return list(MasterKeyCheck.objects.values_list("key_id", flat=True)) if keyring_guard.tables_exist() else []
    except DatabaseError:
        return []


def _record(actor: Actor, action: str, key_id: str) -> None:
    """Keep the event, where there is a database: the first key of an installation is made before it."""
    try:
        if keyring_guard.tables_exist():
            with transaction.atomic():
                audit.record(actor, action, account=None, subject_type="master_key", subject_id=key_id)
    except DatabaseError:
        return
