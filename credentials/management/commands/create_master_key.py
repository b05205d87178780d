"""`manage.py create_master_key`: add a master key to the keyring file."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from accounts.commands import OperatorCommand
from credentials.errors import KeyringError
from credentials.vault import master_keys


class Command(OperatorCommand):
    help = "Add a new master key to the keyring file, or create the file. The key itself is never printed."
    requires_system_checks = []  # They fail without the keyring that this command creates.

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--file", metavar="PATH", help="the keyring file (default: STRAKE_MASTER_KEYS_FILE)")
        parser.add_argument(
            "--primary",
            action=BooleanOptionalAction,
            default=True,
            help="seal under the new key from now on (default). If several hosts have a copy of the file, use "
            "--no-primary, copy the new file to all of them, and then change `primary` in each copy",
        )
        parser.add_argument(
            "--keys-lost", action="store_true", help="create a new keyring although the database holds sealed keys"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            path = master_keys.keyring_file(options["file"])
            key_id, ring = master_keys.create(
                actor=self.actor, path=path, primary=options["primary"], keys_lost=options["keys_lost"]
            )
        except KeyringError as error:
            raise CommandError(str(error)) from None
        self.print(f"Created master key {key_id} in {path}. Primary: {ring.primary_id}.")
        self.print("Back up this file, but apart from the database backups. Without it no sealed key opens.")
        if str(path) != settings.STRAKE_MASTER_KEYS_FILE:
            self.print(f"Set STRAKE_MASTER_KEYS_FILE={path.absolute()}")
        elif ring.primary_id != key_id:
            self.print(f'Next: copy it to every host, then set "primary" to {key_id} in all copies.')
        elif len(ring.ids) > 1:
            self.print("Next: manage.py rotate_master_key")
