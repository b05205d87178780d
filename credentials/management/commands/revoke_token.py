"""`manage.py revoke_token`: end a bearer token for good."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts.commands import OperatorCommand
from accounts.errors import NotFound
from credentials import services


class Command(OperatorCommand):
    help = "End a bearer token for good. Requests that start after this command has returned are refused."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("token_id", help="the token's id (ctok_…)")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            token = services.revoke_token(actor=self.actor, token_id=options["token_id"])
        except NotFound as error:
            raise CommandError(str(error)) from None
        self.print(f"Revoked {token.pk} ({token.label}).")
