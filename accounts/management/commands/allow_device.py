from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import transaction

from accounts import device_grants
from accounts.commands import OperatorCommand, email_or_local
from accounts.errors import AccountsError
from accounts.sign_in import magic_links


class Command(OperatorCommand):
    help = (
        "Let a program that waits with a device code, such as `strake login`, have an access token of a person: what "
        "the page /device/ does. Exit code 0, or 1 if the code is not valid or there is no such user."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--email", help="the person (default on loopback: the first account)")
        parser.add_argument("--code-stdin", action="store_true", required=True, help="read it from standard input")

    def handle(self, *args: Any, email: str | None, **options: Any) -> None:
        code = sys.stdin.read(64)
        try:
            with transaction.atomic():
                user = magic_links.get_or_create_user(email_or_local(email), by=self.actor)
                grant = device_grants.allow(actor=self.actor, user=user, user_code=code)
        except AccountsError as error:
            raise CommandError(str(error)) from None
        self.print(f"{grant.client} may act for {user.email}.")
