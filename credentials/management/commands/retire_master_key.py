"""`manage.py retire_master_key`: end the use of a master key and remove it from the keyring file."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from accounts.commands import OperatorCommand
from credentials.errors import SealError
from credentials.vault import master_keys


class Command(OperatorCommand):
    help = (
        "End the use of an old master key and remove it from the keyring file. This fails while a row or a running "
        "server needs the key. Earlier backups of the database need the keyring backup from the same day."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", help="the master key's id, such as 2026-11-a")
        parser.add_argument(
            "--wait",
            type=float,
            default=30,
            metavar="SECONDS",
            help="how long to wait for servers to load the keyring (default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        key_id = options["id"]
        try:
            master_keys.retire(actor=self.actor, key_id=key_id, wait_seconds=options["wait"])
            if settings.STRAKE_MASTER_KEYS:
                self.print(f"Retired {key_id}. Now remove it from STRAKE_MASTER_KEYS and restart the servers.")
                return
            path = master_keys.keyring_file()
            master_keys.remove(actor=self.actor, path=path, key_id=key_id)
        except SealError as error:
            raise CommandError(str(error)) from None
        self.print(f"Retired {key_id} and removed it from {path}.")
        self.print("Earlier backups of the database need the keyring backup from the same day.")
