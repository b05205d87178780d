"""`manage.py demote_person`: take the rights of staff from a person."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts import users
from accounts.commands import OperatorCommand
from accounts.errors import AccountsError


class Command(OperatorCommand):
    help = (
        "Take the rights of staff from a person, from their next request on. `signin_link --staff` gives them. Exit "
        "code 0, also if the person was not staff, or 1 if there is no such person."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, email: str, json: bool, **options: Any) -> None:
        try:
            user = users.find(email)
        except AccountsError as error:
            raise CommandError(str(error)) from None
        changed = users.demote(actor=self.actor, user=user)
        if json:
            self.print_json({"email": user.email, "changed": changed})
        else:
            self.print(f"{user.email} {'is not staff any more' if changed else 'was not staff'}.")
