from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from accounts import access_tokens, users
from accounts.commands import OperatorCommand, email_or_local
from accounts.errors import AccountsError


class Command(OperatorCommand):
    help = (
        "Create an access token for the management API and print it. It cannot be shown again. "
        "Exit code 0, or 1 if there is no such user or the label or number of days is invalid."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--email", help="the user that the token acts for (default on loopback: the first account)")
        parser.add_argument("--label", required=True, help="what the token is for, to recognise it later")
        parser.add_argument("--days", type=int, help="days until the token expires (default: never)")

    def handle(self, *args: Any, email: str | None, label: str, days: int | None, **options: Any) -> None:
        if days is not None and not 1 <= days <= 3650:
            raise CommandError("--days must be from 1 to 3650.")
        expires_at = None if days is None else timezone.now() + timedelta(days=days)
        try:
            created = access_tokens.create_access_token(
                actor=self.actor, user=users.find(email_or_local(email)), label=label, expires_at=expires_at
            )
        except AccountsError as error:
            raise CommandError(str(error)) from None
        self.print(created.plaintext)
