from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from accounts.audit import OPERATOR
from credentials import keyring, rotation
from credentials.errors import SealError
from credentials.models import Credential

COMPROMISED = """
What rewrapping cannot heal: whoever has an old master key and a copy of the database, today's or a backup's, can open
every provider key that was sealed under it, now and later. Only the providers can end those keys. Their owners must
make new ones there, disable the old ones, and paste the new ones here ("Replace key" on the endpoint's page):
"""


class Command(BaseCommand):
    help = (
        "Rewrap every data key under the primary master key, while servers go on serving. Killed at any point, run it "
        "again and it goes on. Exit code 1 where rows could not be rewrapped; they are named."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="count and try, change nothing")
        parser.add_argument("--batch", type=_positive, default=200, help="rows per transaction (%(default)s)")
        parser.add_argument(
            "--wait", type=float, default=30, metavar="SECONDS", help="for servers to load the keyring (%(default)s)"
        )
        parser.add_argument(
            "--compromised",
            action="store_true",
            help="an old master key may be known to others: also list whose keys must be replaced at the provider",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            stuck = self._dry_run() if options["dry_run"] else self._rotate(options["batch"], options["wait"])
            if options["compromised"]:
                self._list_exposed()
        except SealError as error:
            raise CommandError(str(error)) from None
        if stuck:
            for row in Credential.objects.filter(pk__in=stuck).select_related("endpoint__owner"):
                self.stdout.write(
                    f"{row.endpoint.subdomain} ({row.endpoint.owner.email}): does not open under {row.master_key_id}."
                )
            raise CommandError(f"{len(stuck)} rows could not be rewrapped. Their endpoints need their keys again.")

    def _dry_run(self) -> set[Any]:
        ring = keyring.configured()
        for key_id, rows in rotation.pending(ring).items():
            self.stdout.write(f"{rows} under {key_id} would be rewrapped under {ring.primary_id}.")
        stuck = rotation.dry_run(ring)
        self.stdout.write("Nothing was changed.")
        return stuck

    def _rotate(self, batch: int, wait_seconds: float) -> set[Any]:
        ring = keyring.configured()
        total = sum(rotation.pending(ring).values())
        console = Console(stderr=True)
        columns = (
            TextColumn("Rewrapping"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=total, rate="")

            def advance(rows: int) -> None:
                progress.advance(task, rows)
                speed = progress.tasks[0].speed
                progress.update(task, rate=f"{speed:,.0f} rows/s" if speed else "")

            outcome = rotation.rotate(actor=OPERATOR, batch=batch, wait_seconds=wait_seconds, on_progress=advance)
        self.stdout.write(f"{outcome.rewrapped} data keys rewrapped under {outcome.primary_id}.")
        old = [key_id for key_id in ring.ids if key_id != ring.primary_id]
        if old and not outcome.stuck:
            self.stdout.write(f"Next: manage.py verify_vault, then manage.py retire_master_key {old[0]}")
        return outcome.stuck

    def _list_exposed(self) -> None:
        self.stdout.write(COMPROMISED)
        exposed = rotation.exposed_endpoints(keyring.current())
        for endpoint in exposed.iterator(chunk_size=500):
            self.stdout.write(f"  {endpoint.owner.email}  {endpoint.subdomain}  {endpoint.provider}  {endpoint.label}")
        self.stdout.write(f"\n{exposed.count()} endpoints.")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
