"""`manage.py grant_roles`: give the database roles of the two halves their rights."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import connection

from accounts.commands import OperatorCommand
from strake import database_roles
from strake.database_roles import RolesError


class Command(OperatorCommand):
    help = (
        "Give the PostgreSQL roles of the web half and of the proxy half exactly the rights that their code needs, and "
        "take every other right on Strake's tables from them. Run it as the owner of the tables, after each `migrate` "
        "or `restore` and before the servers restart. It is safe to run at any time."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--web", required=True, metavar="ROLE", help="the role in the web half's DATABASE_URL")
        parser.add_argument("--proxy", required=True, metavar="ROLE", help="the role in the proxy half's DATABASE_URL")
        parser.add_argument("--dry-run", action="store_true", help="print the statements and run none")

    def handle(self, *args: Any, web: str, proxy: str, dry_run: bool, **options: Any) -> None:
        try:
            if dry_run:
                for statement in database_roles.statements(web=web, proxy=proxy):
                    self.print(f"{statement.as_string(connection.connection)};")
                return
            database_roles.grant(web=web, proxy=proxy)
        except RolesError as error:
            raise CommandError(str(error)) from None
        self.print(f"{web} has the rights of the web half, and {proxy} those of the proxy half.")
