"""Making a backup of the database, and restoring one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader

from accounts import audit
from accounts.actors import Actor
from accounts.models import AuditEvent, User
from credentials.errors import KeyringError
from credentials.vault import heartbeats, keyring
from strake.backups import BACKED_UP, RESTORED, postgresql, sqlite
from strake.backups.archive import BackupError, Engine, Manifest, OpenBackup, write


@dataclass(frozen=True, slots=True)
class Restored:
    """What `restore` did: the backup's manifest, and the migrations that ran after it."""

    manifest: Manifest
    migrated: list[str]


def backup(*, actor: Actor, path: Path) -> Manifest:
    """Write a backup of the database to a new file, and check that it can be restored. Raises `BackupError`."""
    manifest = write(path, _engine(), version=settings.STRAKE_VERSION)
    _record(actor, BACKED_UP, manifest, path)
    return manifest


def inspect(path: Path, *, overwrite: bool = False) -> Manifest:
    """Check that a backup could be restored now. Raises `BackupError`, and changes nothing."""
    with OpenBackup(path) as found, _workspace() as folder:
        _check(found.manifest, overwrite=overwrite)
        with found.dump() as stream:
            _engine().verify(stream, folder, found.manifest.contents)
        return found.manifest


def restore(*, actor: Actor, path: Path, overwrite: bool = False) -> Restored:
    """Put a backup in the place of the database, and migrate it if it is older than this version.

    Nobody is signed in afterwards, and no email waits. With `overwrite`, the database may hold something. Raises
    `BackupError`. Then the database is as it was.
    """
    with OpenBackup(path) as found, _workspace() as folder:
        _check(found.manifest, overwrite=overwrite)
        with found.dump() as stream:
            _engine().load(stream, folder, found.manifest.contents)
    pending = sorted(_known_migrations() - set(found.manifest.contents.migrations))
    connection.close()
    if pending:
        call_command("migrate", verbosity=0, interactive=False)
    _record(actor, RESTORED, found.manifest, path)
    return Restored(found.manifest, pending)


def _engine() -> Engine:
    return postgresql if connection.vendor == "postgresql" else sqlite


@contextmanager
def _workspace() -> Iterator[Path]:
    """A private folder for temporary files: on SQLite beside the database, so that copies of it are nowhere else."""
    beside = Path(connection.settings_dict["NAME"]).parent if connection.vendor == "sqlite" else None
    with tempfile.TemporaryDirectory(prefix=".strake-restore-", dir=beside) as name:
        yield Path(name)


def _check(manifest: Manifest, *, overwrite: bool) -> None:
    """Raise `BackupError` if this Strake cannot use what is in the backup."""
    contents = manifest.contents
    if contents.database != connection.vendor:
        raise BackupError(
            f"The backup is of {contents.database}, and this database is {connection.vendor}. Restore it there. "
            "`manage.py move_to` moves from SQLite to PostgreSQL."
        )
    if unknown := sorted(set(contents.migrations) - _known_migrations()):
        raise BackupError(
            f"Strake {manifest.version} made this backup, which this version does not know ({unknown[0]}). Install "
            f"that version, or a later one."
        )
    _check_keys(manifest)
    if running_servers():
        raise BackupError(f"Strake is running: {', '.join(running_servers())}. Stop it first.")
    if not overwrite and _is_used():
        raise BackupError("The database is not empty. To replace all that it holds: restore --overwrite")


def _check_keys(manifest: Manifest) -> None:
    """Raise `BackupError` unless the keyring has the keys that the backup's records need."""
    try:
        ring = keyring.current()
    except KeyringError as error:
        raise BackupError(f"{error} Restore the keyring first.") from None
    needed = {key_id: use for key_id, use in manifest.contents.master_keys.items() if use.records}
    if missing := sorted(needed.keys() - set(ring.ids)):
        records = sum(needed[key_id].records for key_id in missing)
        raise BackupError(
            f"The keyring lacks {', '.join(missing)}, so {records} provider keys would not decrypt. Put the keyring "
            "that belongs to this backup in place first."
        )
    values = {key_id: ring.check_value(key_id).hex() for key_id in needed}
    if wrong := [key_id for key_id, use in needed.items() if use.check_value not in {"", values[key_id]}]:
        raise BackupError(
            f"In the keyring, {', '.join(wrong)} is another key than the one of this backup. Put the keyring that "
            "belongs to it in place first."
        )


def running_servers() -> list[str]:
    """The names of the server processes that use this database."""
    if "credentials_serverprocess" not in connection.introspection.table_names():
        return []
    return [process.name for process in heartbeats.running().only("name")]


def _is_used() -> bool:
    """True if the database holds a person or an event. Migrating alone, or starting once, leaves none."""
    names = connection.introspection.table_names()
    rows = (User.objects.all(), AuditEvent.objects.all())
    return any(found.model._meta.db_table in names and found.exists() for found in rows)


def _known_migrations() -> set[str]:
    return {f"{app}.{name}" for app, name in MigrationLoader(None).disk_migrations}


def _record(actor: Actor, action: str, manifest: Manifest, path: Path) -> None:
    with transaction.atomic():
        audit.record(
            actor,
            action,
            account=None,
            subject_type="database",
            subject_id=manifest.contents.taken_at,
            subject_label=path.name,
            details={"version": manifest.version, "taken_at": manifest.contents.taken_at},
        )
