from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import links
from accounts.errors import InvalidEmail


class Command(BaseCommand):
    help = (
        "Print a one-time sign-in link for an address, creating the user if there is none. Whoever opens the link "
        "first is signed in: pass it on with care. Exit code 0, or 1 where the address is not one."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL")
        parser.add_argument("--staff", action="store_true", help="also let this person see the operators' pages")

    def handle(self, *args: Any, email: str, staff: bool, **options: Any) -> None:
        try:
            link = links.operator_link(email=email, staff=staff)
        except InvalidEmail as error:
            raise CommandError(str(error)) from None
        self.stdout.write(link)
