"""Create, retire and remove master keys. `credentials.vault.rotation` rewraps the rows in between."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import transaction
from django.db.models.functions import Now

from accounts import audit
from accounts.actors import Actor
from credentials.errors import KeyringError, MasterKeyInUse, ProcessesBehind
from credentials.models import Credential, DerivedToken, SealedKey
from credentials.vault import key_registry, keyring, rotation
from credentials.vault.keyring import Keyring
from credentials.vault.models import MasterKeyCheck


def keyring_file(path: str | None = None) -> Path:
    """The keyring file that commands change: `path` or the configured one. Raises `KeyringError`."""
    if settings.STRAKE_MASTER_KEYS:
        raise KeyringError(
            "The master keys come from the environment variable STRAKE_MASTER_KEYS, which a command cannot change. "
            "Write its JSON into a file that only the service's user can read (chmod 600), set "
            "STRAKE_MASTER_KEYS_FILE to its path, remove STRAKE_MASTER_KEYS, restart, and run this again."
        )
    chosen = path or settings.STRAKE_MASTER_KEYS_FILE
    if not chosen:
        raise KeyringError("No keyring file is configured. Use --file PATH, or set STRAKE_MASTER_KEYS_FILE.")
    return Path(chosen)


def create(*, actor: Actor, path: Path, primary: bool, keys_lost: bool = False) -> tuple[str, Keyring]:
    """Add a new random master key to the keyring file. Returns the key's id and the new keyring.

    Creates the file if it is missing. If the database then holds sealed keys, `keys_lost` must confirm that there is no
    backup of the file. Raises `KeyringError` and leaves the file unchanged.
    """
    new_id = ""

    def add_key(ring: Keyring | None) -> str:
        nonlocal new_id
        if ring is None and not keys_lost and _sealed_keys_exist():
            raise KeyringError(
                f"{path} does not exist, but the database holds sealed keys, which a new master key cannot open. "
                "Restore the file from your backup. If it is lost for good, run this again with --keys-lost. Every "
                "endpoint then needs its provider key again."
            )
        # An id is never used for two keys, even if the first key has left the keyring.
        new_id = keyring.new_key_id((*(() if ring is None else ring.ids), *_registered_ids()))
        return keyring.new_document(ring, key_id=new_id, primary=primary)

    ring = keyring.change_file(path, add_key)
    _record(actor, "master_key.created", new_id, {"primary": ring.primary_id, "lost": keys_lost})
    return new_id, ring


def retire(*, actor: Actor, key_id: str, wait_seconds: float = 30) -> None:
    """Forbid sealing under a master key for good, in every process, even in one with an outdated keyring.

    The keyring stays unchanged. `remove` takes the key out of it. Raises `UnknownMasterKey`, or `MasterKeyInUse` if the
    key is the primary, if rows still need it, or if servers still seal under it after `wait_seconds`.
    """
    ring = keyring.reload()
    value = ring.check_value(key_id)
    if key_id == ring.primary_id:
        raise MasterKeyInUse(
            f"{key_id} is the primary master key. Create another one first: manage.py create_master_key"
        )
    try:
        rotation.wait_for_processes(lambda process: process.primary_key_id != key_id, wait_seconds)
    except ProcessesBehind as behind:
        raise MasterKeyInUse(f"Running servers still seal under {key_id}. {behind}") from None
    with transaction.atomic():
        check, _ = MasterKeyCheck.objects.get_or_create(pk=key_id, defaults={"check_value": value})
        # Every seal holds this lock until it commits (`key_registry.confirm`). So each seal is either counted here or
        # finds the key retired.
        check = MasterKeyCheck.objects.select_for_update().get(pk=key_id)
        rows = SealedKey.objects.filter(master_key_id=key_id).count()
        if rows:
            raise MasterKeyInUse(
                f"{rows} sealed key{'s' if rows > 1 else ''} still need{'s' if rows == 1 else ''} {key_id}. "
                "Run first: manage.py rotate_master_key"
            )
        if check.retired_at is None:
            MasterKeyCheck.objects.filter(pk=key_id).update(retired_at=Now())
            audit.record(
                actor,
                "master_key.retired",
                account=None,
                subject_type="master_key",
                subject_id=key_id,
                details={"primary": ring.primary_id},
            )
    # After the commit, since from then on none is stored under this key. Servers buy others.
    DerivedToken.objects.filter(master_key_id=key_id).delete()


def remove(*, actor: Actor, path: Path, key_id: str) -> None:
    """Take a retired master key out of the keyring file.

    Earlier backups of the database need the keyring backup from the same day. Raises `KeyringError`,
    `UnknownMasterKey`, or `MasterKeyInUse` if the key has not been retired.
    """
    if not key_registry.is_retired(key_id):
        raise MasterKeyInUse(f"{key_id} has not been retired.")

    def without_key(ring: Keyring | None) -> str:
        if ring is None:
            raise KeyringError(f"{path} does not exist.")
        return keyring.document_without(ring, key_id)

    ring = keyring.change_file(path, without_key)
    _record(actor, "master_key.removed", key_id, {"primary": ring.primary_id})


def _sealed_keys_exist() -> bool:
    try:
        return key_registry.tables_exist() and Credential.objects.exists()
    except DatabaseError:
        return False  # There is no database yet, so nothing is sealed.


def _registered_ids() -> list[str]:
    try:
        return list(MasterKeyCheck.objects.values_list("key_id", flat=True)) if key_registry.tables_exist() else []
    except DatabaseError:
        return []


def _record(actor: Actor, action: str, key_id: str, details: dict[str, object]) -> None:
    """Write the audit event if there is a database. The first key of an installation is created before that."""
    try:
        if key_registry.tables_exist():
            with transaction.atomic():
                audit.record(actor, action, account=None, subject_type="master_key", subject_id=key_id, details=details)
    except DatabaseError:
        return
