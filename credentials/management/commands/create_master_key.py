"""`manage.py create_master_key`: add a master key to the keyring."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from credentials.errors import SealError
from credentials.management.base import KeyringCommand, add_wait_arguments, say_waiting
from credentials.vault import key_holders, key_registry, master_keys
from credentials.vault.keyring_document import Keyring
from credentials.vault.master_keys import KeyringPlace


class Command(KeyringCommand):
    help = (
        "Add a new master key to the keyring, or create the keyring file. Then wait until every running server holds "
        "the key, and make it the primary, under which everything is sealed. The key itself is never shown."
    )
    requires_system_checks = []  # They fail without the keyring that this command creates.

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--file", metavar="PATH", help="the keyring file (default: STRAKE_MASTER_KEYS_FILE)")
        self.add_place_arguments(parser)
        parser.add_argument(
            "--no-promote",
            action="store_true",
            help="only add the key. Give the new keyring to every host, and then run promote_master_key",
        )
        add_wait_arguments(parser)
        parser.add_argument(
            "--keys-lost", action="store_true", help="create a new keyring although the database holds sealed keys"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["output"] and not options["no_promote"]:
            raise CommandError("With --output, also use --no-promote: no server has the new key yet.")
        place = self.place(options["output"], options["file"])
        promotes = not options["no_promote"] and place.path is not None and place.path.exists()
        try:
            if promotes and key_registry.tables_exist():
                key_holders.check_running(no_server=options["no_server"])
            key_id, ring = master_keys.create(actor=self.actor, place=place, keys_lost=options["keys_lost"])
        except SealError as error:
            raise CommandError(str(error)) from None
        self.print(f"Created master key {key_id} in {place}. Primary: {ring.primary_id}.")
        if promotes:
            ring = self._promote(place, key_id, options["wait"], options["no_server"])
        self._say_what_is_next(place, key_id, ring)

    def _promote(self, place: KeyringPlace, key_id: str, wait_seconds: float, no_server: bool) -> Keyring:
        try:
            ring = master_keys.promote(
                actor=self.actor,
                place=place,
                key_id=key_id,
                wait_seconds=wait_seconds,
                no_server=no_server,
                on_wait=say_waiting(self),
            )
        except SealError as error:
            raise CommandError(
                f"{key_id} was added, but is not the primary. {str(error).removesuffix(' Then run this again.')} "
                f"Then run: manage.py promote_master_key {key_id}"
            ) from None
        self.print(f"Every running server holds {key_id}, which is the primary now.")
        return ring

    def _say_what_is_next(self, place: KeyringPlace, key_id: str, ring: Keyring) -> None:
        self.print("Back the keyring up, but apart from the database backups. Without it no sealed key opens.")
        if place.write is None and str(place.path) != settings.STRAKE_MASTER_KEYS_FILE:
            self.print(f"Set STRAKE_MASTER_KEYS_FILE={place.path and place.path.absolute()}")
        elif ring.primary_id != key_id:
            self.print(f"Next: give the new keyring to every host, and then run: manage.py promote_master_key {key_id}")
        elif len(ring.ids) > 1:
            self.print("Next: manage.py rotate_master_key")
