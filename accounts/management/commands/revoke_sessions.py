from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import audit, sessions, users
from accounts.errors import AccountsError


class Command(BaseCommand):
    help = "Sign a person out everywhere, at once. Exit code 0, or 1 where there is no such user."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL")

    def handle(self, *args: Any, email: str, **options: Any) -> None:
        try:
            user = users.find(email)
        except AccountsError as error:
            raise CommandError(str(error)) from None
        ended = sessions.revoke_sessions(actor=audit.OPERATOR, user=user)
        self.stdout.write(f"Ended {ended} {'session' if ended == 1 else 'sessions'} of {user.email}.")
