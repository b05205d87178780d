from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from accounts.audit import OPERATOR
from credentials import master_keys
from credentials.errors import SealError


class Command(BaseCommand):
    help = (
        "End the use of an old master key and take it out of the keyring file. Refused while a row or a running server "
        "needs it. Backups of the database from before then need the keyring file of their own day."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", help="the master key's id, such as 2026-11-a")
        parser.add_argument(
            "--wait", type=float, default=30, metavar="SECONDS", help="for servers to load the keyring (%(default)s)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        key_id = options["id"]
        try:
            master_keys.retire(actor=OPERATOR, key_id=key_id, wait_seconds=options["wait"])
            if settings.STRAKE_MASTER_KEYS:
                self.stdout.write(f"Retired {key_id}. Now take it out of STRAKE_MASTER_KEYS and restart the servers.")
                return
            path = master_keys.keyring_file()
            master_keys.remove(actor=OPERATOR, path=path, key_id=key_id)
        except SealError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Retired {key_id} and took it out of {path}.")
        self.stdout.write("Database backups from before the rotation need the keyring backup of their day.")
