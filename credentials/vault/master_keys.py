"""Create, promote, retire and remove master keys. `credentials.vault.rotation` rewraps the rows in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import transaction
from django.db.models.functions import Now

from accounts import audit, database_errors
from accounts.actors import Actor
from credentials.errors import KeyringError, KeyringMissing, MasterKeyInUse
from credentials.models import Credential, DerivedToken, SealedKey
from credentials.vault import key_holders, key_registry, keyring, keyring_document, keyring_file
from credentials.vault.keyring_document import Keyring
from credentials.vault.models import MasterKeyCheck


@dataclass(frozen=True, slots=True)
class KeyringPlace:
    """Where a command reads the keyring, and where it writes the changed one.

    `write` takes the changed document if it belongs somewhere else than `path`, such as into a Secret. Then `path` may
    be None for a keyring that comes from a command or the environment.
    """

    path: Path | None
    write: Callable[[str], None] | None = None

    def read(self) -> Keyring:
        """Raises `KeyringError`."""
        return keyring.reload() if self.path is None else keyring_file.read_file(self.path)

    def change(self, change: Callable[[Keyring | None], str]) -> Keyring:
        """Change the keyring as `keyring_file.change_file` does. Raises `KeyringError`."""
        if self.write is None:
            ring = keyring_file.change_file(self.path or file_to_change(), change)
            keyring.forget()
            return ring
        try:
            present = self.read()
        except KeyringMissing:
            present = None
        document = change(present)
        ring = keyring_document.parse(document)
        self.write(document)
        return ring

    def __str__(self) -> str:
        return "the new document" if self.write else str(self.path)


def file_to_change(path: str | None = None) -> Path:
    """The keyring file that commands may change: `path` or the configured one. Raises `KeyringError`."""
    for source in ("STRAKE_MASTER_KEYS", "STRAKE_MASTER_KEYS_COMMAND"):
        if getattr(settings, source):
            raise KeyringError(
                f"The master keys come from {source}, which this command cannot change. Write the changed keyring "
                "somewhere else with --output, store it where the present one comes from, and restart or reload the "
                "servers. Or write the keyring into a file that only the service's user can read (chmod 600), and set "
                f"STRAKE_MASTER_KEYS_FILE to its path in place of {source}."
            )
    chosen = path or settings.STRAKE_MASTER_KEYS_FILE
    if not chosen:
        raise KeyringError("No keyring file is configured. Use --file PATH, or set STRAKE_MASTER_KEYS_FILE.")
    return Path(chosen)


def create(*, actor: Actor, place: KeyringPlace, keys_lost: bool = False) -> tuple[str, Keyring]:
    """Add a new random master key to the keyring. Returns the key's id and the new keyring.

    Creates the file if it is missing, and only then is the new key the primary. If the database then holds sealed keys,
    `keys_lost` must confirm that there is no backup of the file. Raises `KeyringError` and changes nothing.
    """
    new_id = ""

    def add_key(ring: Keyring | None) -> str:
        nonlocal new_id
        if ring is None and not keys_lost:
            _refuse_to_lose_keys(place)
        # An id is never used for two keys, even if the first key has left the keyring.
        new_id = keyring_document.new_key_id((*(() if ring is None else ring.ids), *_registered_ids()))
        return keyring_document.new_document(ring, key_id=new_id, primary=False)

    ring = place.change(add_key)
    _record(actor, "master_key.created", new_id, {"primary": ring.primary_id, "lost": keys_lost})
    return new_id, ring


def promote(
    *,
    actor: Actor,
    place: KeyringPlace,
    key_id: str,
    wait_seconds: float = 30,
    no_server: bool = False,
    on_wait: key_holders.OnWait = lambda behind: None,
) -> Keyring:
    """Make a master key the primary, under which everything is sealed from then on. Returns the new keyring.

    Waits until every running server holds the key, because another one could not open what is sealed under it. Calls
    `on_wait` with those that do not, as `key_holders.wait_until` does. Raises `UnknownMasterKey`, `WrongMasterKey`,
    `RetiredMasterKey`, `KeyringError`, `MasterKeyNotEverywhere`, or `NoServerSeen` unless `no_server` says that none
    runs.
    """
    ring = place.read()
    value = ring.check_value(key_id)
    if key_registry.tables_exist():  # otherwise nothing has been sealed
        key_registry.check(key_id, value)
        key_holders.wait_for_key(key_id, ring, seconds=wait_seconds, no_server=no_server, on_wait=on_wait)

    def with_primary(present: Keyring | None) -> str:
        if present is None or key_id not in present.ids or present.check_value(key_id) != value:
            raise KeyringError("The keyring has been changed meanwhile. Run this again.")
        return keyring_document.document_with_primary(present, key_id)

    ring = place.change(with_primary)
    _record(actor, "master_key.promoted", key_id, {"primary": ring.primary_id})
    return ring


def retire(
    *, actor: Actor, key_id: str, wait_seconds: float = 30, on_wait: key_holders.OnWait = lambda behind: None
) -> None:
    """Forbid sealing under a master key for good, in every process, even in one with an outdated keyring.

    The keyring stays unchanged. `remove` takes the key out of it. Raises `UnknownMasterKey`, or `MasterKeyInUse` if the
    key is the primary, if rows still need it, or if servers still seal under it after `wait_seconds`. Calls `on_wait`
    with those servers, as `key_holders.wait_until` does.
    """
    ring = keyring.reload()
    value = ring.check_value(key_id)
    if key_id == ring.primary_id:
        raise MasterKeyInUse(
            f"{key_id} is the primary master key. Create another one first: manage.py create_master_key"
        )
    if behind := key_holders.wait_until(lambda process: process.primary_key_id != key_id, wait_seconds, on_wait):
        raise MasterKeyInUse(
            f"These servers still seal under {key_id}: {key_holders.names(behind)}. Give their hosts the keyring in "
            f"which {ring.primary_id} is the primary. Then run this again."
        )
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


def remove(*, actor: Actor, place: KeyringPlace, key_id: str) -> None:
    """Take a retired master key out of the keyring.

    Earlier backups of the database need the keyring backup from the same day. Raises `KeyringError`,
    `UnknownMasterKey`, or `MasterKeyInUse` if the key has not been retired.
    """
    if not key_registry.is_retired(key_id):
        raise MasterKeyInUse(f"{key_id} has not been retired.")

    def without_key(ring: Keyring | None) -> str:
        if ring is None:
            raise KeyringError(f"{place} does not exist.")
        return keyring_document.document_without(ring, key_id)

    ring = place.change(without_key)
    _record(actor, "master_key.removed", key_id, {"primary": ring.primary_id})


def _refuse_to_lose_keys(place: KeyringPlace) -> None:
    """Raise `KeyringError` if sealed keys exist, or if the database cannot be asked. Nothing opens them any more."""
    try:
        if not (key_registry.tables_exist() and Credential.objects.exists()):
            return
        problem = "the database holds sealed keys, which a new master key cannot open"
    except DatabaseError as error:
        problem = f"the database cannot be asked whether it holds sealed keys ({database_errors.reason(error)})"
    raise KeyringError(
        f"{place} does not exist, and {problem}. Restore the file from your backup. Only if it is lost for good, run "
        "this again with --keys-lost. Every endpoint then needs its provider key again."
    )


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
