"""`manage.py restore`: restore a backup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import connection

from accounts.commands import OperatorCommand
from strake.backups import service
from strake.backups.archive import BackupError


class Command(OperatorCommand):
    help = (
        "Restore a file that `backup` wrote into an empty database, while Strake is stopped. Put the keyring in place "
        "first. The file's checksum, its version and the ids of the master keys are checked before anything changes, "
        "and a backup of an older version is migrated. Afterwards everybody must sign in again. Run `after_restore` "
        "before you start Strake: tokens that were revoked since the backup would work again. Exit code 0, or 1 if "
        "nothing was restored."
    )

    requires_system_checks = ()  # the database may be empty, and the keyring is checked against the backup

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", metavar="FILE", type=Path)
        parser.add_argument("--overwrite", action="store_true", help="replace all that the database holds")
        parser.add_argument("--dry-run", action="store_true", help="check everything and restore nothing")

    def handle(self, *args: Any, file: Path, overwrite: bool, dry_run: bool, **options: Any) -> None:
        path = file.absolute()
        try:
            if dry_run:
                manifest = service.inspect(path, overwrite=overwrite)
                self.print(f"The backup of {manifest.contents.taken_at} is complete and can be restored.")
                return
            restored = service.restore(actor=self.actor, path=path, overwrite=overwrite)
        except BackupError as error:
            raise CommandError(str(error)) from None
        contents = restored.manifest.contents
        self.print(f"Restored {sum(contents.tables.values())} rows of {contents.taken_at}.")
        if restored.migrated:
            self.print(f"Migrated from Strake {restored.manifest.version}: {', '.join(restored.migrated)}.")
        self.print("What was revoked since then works again. Before you start Strake:", "  manage.py verify_vault")
        if connection.vendor == "postgresql":
            self.print("  manage.py grant_roles --web ROLE --proxy ROLE")
        self.print("  manage.py after_restore --events FILE    with an export of the audit log, or without --events")
