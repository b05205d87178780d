"""`manage.py move_to`: move from SQLite to PostgreSQL."""

from __future__ import annotations

import contextlib
import shlex
import sys
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from tqdm import tqdm

from accounts.commands import OperatorCommand
from proxy import audit_key
from proxy.audit_key import AuditKeyError
from strake.env import Environment
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
        self.print(f"Everything has moved, and {moved.sealed_keys} sealed keys decrypt there.")
        self._say_what_is_left()

    def _say_what_is_left(self) -> None:
        """Print what the environment needs now. URLs hold passwords, so they are not repeated."""
        home = settings.STRAKE_HOME
        self.print("Add to the environment of Strake and of its commands:")
        self.print("  DATABASE_URL=…    the URL that you gave")
        if not settings.STRAKE_LOOPBACK:
            self.print("  REDIS_URL=…    now required, such as redis://127.0.0.1:6379/0")
            if not Environment().present("EMAIL_URL", "EMAIL_URL_FILE"):
                self.print("  EMAIL_URL=…    now required, such as smtp+tls://user:password@mail.example.org:587")
            with contextlib.suppress(AuditKeyError):
                audit_key.load()  # creates it here for the last time
            self.print(*(f"  {name}={shlex.quote(value)}" for name, value in home.variables(Environment()).items()))
            self.print("Everybody must sign in again, since sessions are in Redis then.")
        self.print(
            "Then run manage.py doctor, and start Strake.",
            "If each half has a role of its own, run before: manage.py grant_roles --web ROLE --proxy ROLE",
            f"At last remove {home.database}, which still holds everything.",
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
