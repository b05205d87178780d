"""`manage.py rotate_master_key`: rewrap every data key under the primary master key."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError
from django.db import transaction
from tqdm import tqdm

from accounts.commands import OperatorCommand
from credentials.errors import SealError
from credentials.management.base import add_wait_arguments, say_waiting
from credentials.models import SealedKey
from credentials.vault import heartbeats, key_holders, keyring, rotation
from credentials.vault.keyring import Keyring

COMPROMISED = """
Rewrapping does not help against somebody who has an old master key and a copy of the database or of a backup. They can
open every provider key that was sealed under it. Only the providers can end those keys. The owners must create new keys
there, disable the old ones, and paste the new ones here ("Replace key" on the endpoint's page):
"""


class Command(OperatorCommand):
    help = (
        "Rewrap every data key under the primary master key, while servers keep serving. If the command is killed, run "
        "it again and it continues. If some rows cannot be rewrapped, list them and exit with code 1."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="count the rows and try each one, but change nothing"
        )
        parser.add_argument("--batch", type=_positive, default=200, help="rows per transaction (default: %(default)s)")
        add_wait_arguments(parser)
        parser.add_argument(
            "--compromised",
            action="store_true",
            help="an old master key may be known to others, so also list the provider keys that must be replaced",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            stuck = self._dry_run() if options["dry_run"] else self._rotate(options)
            if options["compromised"]:
                self._list_exposed()
        except SealError as error:
            raise CommandError(str(error)) from None
        if stuck:
            for row in SealedKey.objects.whole().filter(pk__in=stuck).select_related("credential__endpoint__owner"):
                endpoint = row.credential.endpoint
                self.print(f"{endpoint.subdomain} ({endpoint.owner.email}): does not open under {row.master_key_id}.")
            raise CommandError(f"{len(stuck)} rows could not be rewrapped. Their endpoints need their keys again.")

    def _dry_run(self) -> set[UUID]:
        ring = keyring.reload()
        for key_id, rows in rotation.pending(ring).items():
            self.print(f"{rows} data keys under {key_id} would be rewrapped under {ring.primary_id}.")
        stuck = rotation.dry_run(ring)
        self.print("Nothing was changed.")
        return stuck

    def _rotate(self, options: dict[str, Any]) -> set[UUID]:
        ring = keyring.reload()
        total = sum(rotation.pending(ring).values())
        with tqdm(total=total, desc="Rewrapping", unit=" rows", disable=None) as progress:  # None: only on a terminal
            outcome = rotation.rotate(
                actor=self.actor,
                batch=options["batch"],
                wait_seconds=options["wait"],
                no_server=options["no_server"],
                on_progress=lambda rows: progress.update(rows),
                on_wait=say_waiting(self),
            )
        self.print(f"{outcome.rewrapped} data keys rewrapped under {outcome.primary_id}.")
        if not outcome.stuck:
            self._say_what_is_next(ring)
        return outcome.stuck

    def _say_what_is_next(self, ring: Keyring) -> None:
        old = [key_id for key_id in ring.ids if key_id != ring.primary_id]
        # What they report may be this old.
        behind = key_holders.wait_until(
            lambda process: process.primary_key_id == ring.primary_id, heartbeats.BEAT_SECONDS
        )
        if behind:
            self.print(
                f"These servers still seal under an older key: {key_holders.names(behind)}. Next: give their hosts the "
                f"keyring in which {ring.primary_id} is the primary, and run this again."
            )
        elif old:
            self.print(f"Next: manage.py verify_vault, then manage.py retire_master_key {old[0]}")

    def _list_exposed(self) -> None:
        self.print(*COMPROMISED.splitlines())
        exposed = rotation.exposed_endpoints(keyring.current())
        with transaction.atomic():  # in which a cursor works behind a pooler too
            for endpoint in exposed.iterator(chunk_size=500):
                self.print(f"  {endpoint.owner.email}  {endpoint.subdomain}  {endpoint.provider}  {endpoint.label}")
        self.print("", f"{exposed.count()} endpoints.")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
