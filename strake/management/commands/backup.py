"""`manage.py backup`: write a backup of the database to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts.commands import OperatorCommand
from strake.backups import service
from strake.backups.archive import BackupError


class Command(OperatorCommand):
    help = (
        "Write a backup of the database to a new file, while Strake runs, and check that it can be restored. It holds "
        "provider keys as ciphertext and the ids of the master keys, never a key: keep the keyring in another place. "
        "On PostgreSQL this needs pg_dump. Exit code 0, or 1 if there is no backup."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", metavar="FILE", type=Path, help="the backup; an existing file is never replaced")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, file: Path, json: bool, **options: Any) -> None:
        path = file.absolute()
        try:
            manifest = service.backup(actor=self.actor, path=path)
        except BackupError as error:
            raise CommandError(str(error)) from None
        keys = [key_id for key_id, use in manifest.contents.master_keys.items() if use.records]
        if json:
            size = path.stat().st_size
            self.print_json(
                {"file": str(path), "bytes": size, "taken_at": manifest.contents.taken_at, "master_keys": keys}
            )
            return
        rows = sum(manifest.contents.tables.values())
        self.print(f"{path}: {rows} rows of {manifest.contents.taken_at}. It was read again, and is complete.")
        if keys:
            self.print(f"To restore it, you also need the keyring, with: {', '.join(keys)}.")
