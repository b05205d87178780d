from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts import users
from accounts.commands import OperatorCommand
from accounts.errors import AccountsError
from accounts.sessions import service as sessions


class Command(OperatorCommand):
    help = "End all sessions of a user at once. Exit code 0, or 1 if there is no such user."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL")

    def handle(self, *args: Any, email: str, **options: Any) -> None:
        try:
            user = users.find(email)
        except AccountsError as error:
            raise CommandError(str(error)) from None
        ended = sessions.revoke_sessions(actor=self.actor, user=user)
        self.print(f"Ended {ended} {'session' if ended == 1 else 'sessions'} of {user.email}.")
