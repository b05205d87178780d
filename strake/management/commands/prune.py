"""`manage.py prune`: remove rows that are past their retention time."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts import retention
from accounts.commands import OperatorCommand
from strake import pruning


class Command(OperatorCommand):
    help = (
        "Remove expired rows: request records and counts of refusals after STRAKE_RETENTION_DAYS, hourly totals and "
        "audit events after a year (or after STRAKE_RETENTION_DAYS if that is longer), sign-in links after a day, "
        "unsent emails, upload URLs, cache entries, and ended sessions. A running Strake does so every hour. If it "
        "has database roles, it leaves audit events to this command. It is safe at any time, and to interrupt. Exit "
        "code 0, or 1 if the database's clock may be wrong."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="count the rows and remove none")
        parser.add_argument("--trust-clock", action="store_true", help="the database's clock is right: remove by it")

    def handle(self, *args: Any, dry_run: bool, trust_clock: bool, **options: Any) -> None:
        now = retention.database_now()
        if not dry_run:
            try:
                pruning.check_clock(now, trust=trust_clock)
            except pruning.ImplausibleClock as error:
                raise CommandError(f"{error} If it is right: manage.py prune --trust-clock") from None
        for name, remove in pruning.removals(now).items():
            number = remove(dry_run=dry_run)
            self.print(f"{number:>8} {name} {'would be removed' if dry_run else 'removed'}")
        if not dry_run:
            pruning.note_end(now)
