"""`manage.py suspend_person`: take all access from a person, and keep what they own."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from accounts import users
from accounts.commands import PersonCommand
from accounts.models import User


class Command(PersonCommand):
    help = (
        "Take all access from a person until `resume_person`. Their sessions end, they cannot sign in, and their "
        "access tokens and the tokens of their endpoints are refused. What is in flight ends. Nothing is deleted. "
        "Exit code 0, also if the person was suspended already, or 1 if there is no such person."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--reason", default="", help="a short text for the audit log")

    def act(self, user: User, *, reason: str, json: bool, **options: Any) -> None:
        done = users.suspend(actor=self.actor, user=user, reason=reason)
        if json:
            self.print_json({"email": user.email, "changed": done.is_new, "sessions": done.sessions})
        elif done.is_new:
            self.print(f"{user.email} is suspended, and their tokens are refused. Ended sessions: {done.sessions}.")
        else:
            self.print(f"{user.email} was suspended already.")
