"""`manage.py erase_person`: delete a person with everything they own."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts import users
from accounts.commands import OperatorCommand
from accounts.errors import AccountsError, ConfirmationMismatch
from accounts.models import User


class Command(OperatorCommand):
    help = (
        "Delete a person with all their endpoints, sealed keys, tokens, sessions and request records, as they can do "
        "on their settings page. There is no way back. Audit events stay, or with --audit only their hashes. Asks for "
        "the email address again, which a script sends on standard input or skips with --yes. Exit code 0, or 1 if "
        "nothing was deleted."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL")
        parser.add_argument("--audit", action="store_true", help="erase what the audit log says of them, too")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument("--dry-run", action="store_true", help="say what would be deleted and delete nothing")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, email: str, audit: bool, yes: bool, dry_run: bool, json: bool, **options: Any) -> None:
        try:
            user = users.find(email)
            holdings = users.holdings(user)
            if not json:
                self.print(*(f"{number:>8} {name.replace('_', ' ')}" for name, number in holdings.items()))
            if not dry_run:
                if not yes:
                    self._ask(user, quiet=json)
                users.erase(actor=self.actor, user=user, events=audit)
        except AccountsError as error:
            raise CommandError(str(error)) from None
        if json:
            self.print_json({"email": user.email, **holdings, "dry_run": dry_run})
        else:
            self.print(f"{user.email} {'would be' if dry_run else 'is'} deleted, with everything listed above.")

    def _ask(self, user: User, *, quiet: bool) -> None:
        """Raises `ConfirmationMismatch` unless the next line of standard input is the email address."""
        if not quiet:
            self.print(f"Type {user.email} to delete this person for good:")
        if sys.stdin.readline().strip().lower() != user.email:
            raise ConfirmationMismatch("That is not the email address. Nothing was deleted.")
