from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from accounts import access_tokens, users
from accounts.commands import OperatorCommand, duration, email_or_local
from accounts.errors import AccountsError
from accounts.models import SCOPES


class Command(OperatorCommand):
    help = (
        "Create an access token for the management API and print it. It cannot be shown again. "
        "Exit code 0, or 1 if there is no such user or the label, the expiry or a network is invalid."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--email", help="the user that the token acts for (default on loopback: the first account)")
        parser.add_argument("--label", required=True, help="what the token is for, to recognise it later")
        parser.add_argument(
            "--scope",
            action="append",
            choices=SCOPES,
            dest="scopes",
            help="what it may do; repeat it for several, each includes read (default: everything)",
        )
        parser.add_argument(
            "--network",
            action="append",
            default=[],
            dest="networks",
            metavar="CIDR",
            help="where it may be used from, such as 192.0.2.0/24; repeat it for several (default: anywhere)",
        )
        expiry = parser.add_mutually_exclusive_group()
        expiry.add_argument("--expires-in", type=duration, metavar="TIME", help="such as 8h or 30d (default: never)")
        expiry.add_argument("--days", type=int, help="the same in days")

    def handle(
        self,
        *args: Any,
        email: str | None,
        label: str,
        scopes: list[str] | None,
        networks: list[str],
        expires_in: timedelta | None,
        days: int | None,
        **options: Any,
    ) -> None:
        if days is not None:
            if not 1 <= days <= 3650:
                raise CommandError("--days must be from 1 to 3650.")
            expires_in = timedelta(days=days)
        try:
            created = access_tokens.create(
                actor=self.actor,
                user=users.find(email_or_local(email)),
                label=label,
                scopes=SCOPES if scopes is None else scopes,
                expires_at=None if expires_in is None else timezone.now() + expires_in,
                allowed_networks=networks,
            )
        except AccountsError as error:
            raise CommandError(str(error)) from None
        self.print(created.plaintext)
