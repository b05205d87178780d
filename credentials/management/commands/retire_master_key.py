"""`manage.py retire_master_key`: end the use of a master key and remove it from the keyring."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from credentials.errors import SealError
from credentials.management.base import KeyringCommand, say_waiting
from credentials.vault import key_holders, master_keys

DROP_SECONDS = 5.0  # how long servers get to read the file again, which they do every second


class Command(KeyringCommand):
    help = (
        "End the use of an old master key and remove it from the keyring. This fails while a row or a running server "
        "needs the key. Earlier backups of the database need the keyring backup from the same day."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", help="the master key's id, such as 2026-11-a")
        self.add_place_arguments(parser)
        parser.add_argument(
            "--wait",
            type=float,
            default=key_holders.default_wait_seconds(),
            metavar="SECONDS",
            help="how long to wait for servers to load the keyring (default: %(default)g)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        key_id = options["id"]
        can_remove = bool(options["output"] or settings.STRAKE_MASTER_KEYS_FILE)
        try:
            master_keys.retire(actor=self.actor, key_id=key_id, wait_seconds=options["wait"], on_wait=say_waiting(self))
            if can_remove:
                place = self.place(options["output"])
                master_keys.remove(actor=self.actor, place=place, key_id=key_id)
                self.print(f"Retired {key_id} and removed it from {place}.")
            else:
                self.print(f"Retired {key_id}. Now remove it from where the keyring comes from.")
        except SealError as error:
            raise CommandError(str(error)) from None
        self._name_holders(key_id, 0 if options["output"] or not can_remove else DROP_SECONDS)
        self.print("Earlier backups of the database need the keyring backup from the same day.")

    def _name_holders(self, key_id: str, seconds: float) -> None:
        if holders := key_holders.wait_until(lambda process: key_id not in process.key_ids, seconds):
            servers = key_holders.names(holders)
            self.print(f"These servers still hold {key_id}: {servers}. Give their hosts the keyring without it.")
