"""`manage.py revoke_access_tokens`: revoke all access tokens of a person."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts import access_tokens, users
from accounts.commands import OperatorCommand
from accounts.errors import AccountsError
from accounts.models import AccessToken


class Command(OperatorCommand):
    help = (
        "Revoke all access tokens of a person, which end their access to the management API. The tokens of their "
        "endpoints stay. Exit code 0, or 1 if there is no such person."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL")
        parser.add_argument("--dry-run", action="store_true", help="list the tokens and revoke none")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, email: str, dry_run: bool, json: bool, **options: Any) -> None:
        try:
            user = users.find(email)
        except AccountsError as error:
            raise CommandError(str(error)) from None
        live = [str(token) for token in AccessToken.objects.live().filter(user=user).order_by("created_at", "pk")]
        number = len(live) if dry_run else access_tokens.revoke_access_tokens(actor=self.actor, user=user)
        if json:
            self.print_json({"email": user.email, "access_tokens": number, "dry_run": dry_run})
            return
        if dry_run:
            self.print(*live)
        plural = "" if number == 1 else "s"
        self.print(f"{number} access token{plural} of {user.email} {'would be ' if dry_run else ''}revoked.")
