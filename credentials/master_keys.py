"""Making master keys and retiring them. Rotation itself, the walk over all rows, is `credentials.rotation`."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import transaction

from accounts import audit
from accounts.audit import Actor
from credentials import keyring, keyring_guard
from credentials.errors import KeyringError
from credentials.keyring import Keyring
from credentials.models import Credential


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
        made = keyring.new_key_id(() if ring is None else ring.ids)
        return keyring.new_document(ring, key_id=made, primary=primary)

    ring = keyring.change_file(path, add_key)
    _record(actor, "master_key.created", made)
    return made, ring


def _sealed_keys_exist() -> bool:
    try:
        return keyring_guard.tables_exist() and Credential.objects.exists()
    except DatabaseError:
        return False  # no database yet: nothing is sealed


def _record(actor: Actor, action: str, key_id: str) -> None:
    """Keep the event, where there is a database: the first key of an installation is made before it."""
    try:
        if keyring_guard.tables_exist():
            with transaction.atomic():
                audit.record(actor, action, account=None, subject_type="master_key", subject_id=key_id)
    except DatabaseError:
        return
