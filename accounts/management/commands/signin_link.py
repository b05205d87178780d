from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts.commands import OperatorCommand, email_or_local
from accounts.errors import AccountsError
from accounts.sign_in import magic_links


class Command(OperatorCommand):
    help = (
        "Print a one-time sign-in link for an email address, and create its user if there is none. The first person "
        "to open it is signed in, so pass it on with care. Exit code 0, or 1 if the address is invalid or its user "
        "is suspended."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "email", metavar="EMAIL", nargs="?", help="(default on loopback: that of the first account)"
        )
        parser.add_argument("--staff", action="store_true", help="also let this user open the pages below /admin/")

    def handle(self, *args: Any, email: str | None, staff: bool, **options: Any) -> None:
        try:
            link = magic_links.operator_link(email=email_or_local(email), staff=staff, actor=self.actor)
        except AccountsError as error:
            raise CommandError(str(error)) from None
        self.print(link)
