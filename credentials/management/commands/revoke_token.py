"""`manage.py revoke_token`: end a bearer token."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.audit import OPERATOR
from credentials import services
from credentials.errors import NotFound


class Command(BaseCommand):
    help = "End a bearer token for good. Requests that start after this command has returned are refused."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("token_id", help="the token's id, ctok_…")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            token = services.revoke_token(actor=OPERATOR, token_id=options["token_id"])
        except NotFound as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Revoked {token.pk} ({token.label}).")
