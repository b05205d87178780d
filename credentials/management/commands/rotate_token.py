"""`manage.py rotate_token`: give a bearer token a new secret."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts.commands import OperatorCommand
from accounts.errors import NotFound
from credentials import services


class Command(OperatorCommand):
    help = "Give a bearer token a new secret and print it, once. The old secret stops working at the same moment."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("token_id", help="the token's id (ctok_…)")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            issued = services.rotate_token(actor=self.actor, token_id=options["token_id"])
        except NotFound as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.print_json({"token": issued.plaintext, "token_id": issued.token.pk})
        else:
            self.print(issued.plaintext)
