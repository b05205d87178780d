"""`manage.py revoke_access_tokens`: revoke all access tokens of a person."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from accounts import access_tokens
from accounts.commands import PersonCommand
from accounts.models import AccessToken, User


class Command(PersonCommand):
    help = (
        "Revoke all access tokens of a person, which end their access to the management API. The tokens of their "
        "endpoints stay. Exit code 0, or 1 if there is no such person."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--dry-run", action="store_true", help="list the tokens and revoke none")

    def act(self, user: User, *, dry_run: bool, json: bool, **options: Any) -> None:
        live = [str(token) for token in AccessToken.objects.live().filter(user=user).order_by("created_at", "pk")]
        number = len(live) if dry_run else access_tokens.revoke_access_tokens(actor=self.actor, user=user)
        if json:
            self.print_json({"email": user.email, "access_tokens": number, "dry_run": dry_run})
            return
        if dry_run:
            self.print(*live)
        plural = "" if number == 1 else "s"
        self.print(f"{number} access token{plural} of {user.email} {'would be ' if dry_run else ''}revoked.")
