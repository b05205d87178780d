"""`manage.py move_to`: move from SQLite to PostgreSQL."""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from tqdm import tqdm

from accounts.commands import OperatorCommand
from strake.moving import service
from strake.moving.target import MoveError


class Command(OperatorCommand):
    help = (
        "Copy everything from SQLite to an empty PostgreSQL database, while Strake is stopped, and check there that no "
        "row is missing and every sealed key decrypts. The SQLite database stays as it is. If it is interrupted, run "
        "it again: it continues. Exit code 0, or 1 if not everything has moved."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "database_url",
            metavar="DATABASE_URL",
            help="as in the configuration, with the role that shall own the tables. With - it is read from standard "
            "input: other users of this machine can see arguments, so do that if it has a password",
        )

    def handle(self, *args: Any, database_url: str, **options: Any) -> None:
        url = sys.stdin.readline().strip() if database_url == "-" else database_url
        with _Bars() as bars:
            try:
                moved = service.move(url=url, progress=bars.show)
            except (MoveError, ImproperlyConfigured) as error:
                raise CommandError(str(error)) from None
        for table, rows in moved.rows.items():
            if rows:
                self.print(f"{rows:>10} {table}")
        self.print(f"Everything has moved, and {moved.sealed_keys} sealed keys decrypt there. Now:")
        self.print("  Set DATABASE_URL to that database, and REDIS_URL, for every process and for commands.")
        if settings.STRAKE_MASTER_KEYS_FILE:
            self.print(f"  Keep the keyring: STRAKE_MASTER_KEYS_FILE={settings.STRAKE_MASTER_KEYS_FILE}")
        self.print("  With a role for each half, run: manage.py grant_roles --web ROLE --proxy ROLE")
        self.print(
            "  Run manage.py doctor, and start Strake. With REDIS_URL, everybody signs in again.",
            f"  Then remove {settings.STRAKE_HOME.database}, which still holds everything.",
        )


class _Bars:
    """A progress bar for each table, on a terminal."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm[Any]] = {}

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def show(self, table: str, done: int, total: int) -> None:
        if table not in self._bars:
            self._bars[table] = tqdm(desc=table, total=total, unit=" rows", disable=None)
        self._bars[table].update(done - self._bars[table].n)
