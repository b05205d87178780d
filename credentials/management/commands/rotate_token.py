"""`manage.py rotate_token`: give a bearer token a new secret."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.audit import OPERATOR
from credentials import services
from credentials.errors import NotFound


class Command(BaseCommand):
    help = "Give a bearer token a new secret and print it, once. The old one stops working in the same moment."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("token_id", help="the token's id, ctok_…")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            issued = services.rotate_token(actor=OPERATOR, token_id=options["token_id"])
        except NotFound as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.stdout.write(json.dumps({"token": issued.plaintext, "token_id": issued.token.pk}))
        else:
            self.stdout.write(issued.plaintext)
