from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from accounts.audit import OPERATOR
from credentials import master_keys
from credentials.errors import KeyringError


class Command(BaseCommand):
    help = "Add a fresh master key to the keyring file, or make the file. The key itself is never printed."
    requires_system_checks = []  # they would complain about the very keyring that is to be made

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--file", metavar="PATH", help="the keyring file (default: STRAKE_MASTER_KEYS_FILE)")
        parser.add_argument(
            "--primary",
            action=BooleanOptionalAction,
            default=True,
            help="seal under the new key from now on; use --no-primary where several hosts hold copies of the file, "
            "distribute it, and then change `primary` in it",
        )
        parser.add_argument(
            "--keys-lost", action="store_true", help="start a new keyring although the database holds sealed keys"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            path = master_keys.keyring_file(options["file"])
            key_id, ring = master_keys.create(
                actor=OPERATOR, path=path, primary=options["primary"], keys_lost=options["keys_lost"]
            )
        except KeyringError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Made master key {key_id} in {path}. Primary: {ring.primary_id}.")
        self.stdout.write("Back the file up where the database backups are not: without it no sealed key opens.")
        if str(path) != settings.STRAKE_MASTER_KEYS_FILE:
            self.stdout.write(f"Set STRAKE_MASTER_KEYS_FILE={path.absolute()}")
        elif ring.primary_id != key_id:
            self.stdout.write(f'Next: copy it to every host, then set "primary" to {key_id} in all copies.')
        elif len(ring.ids) > 1:
            self.stdout.write("Next: manage.py rotate_master_key")
