"""`manage.py issue_token`: add a bearer token with limits to an endpoint."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from accounts.commands import OperatorCommand
from accounts.errors import AccountsError
from credentials import services
from credentials.errors import InvalidLimit

MAX_DAYS = 3650


class Command(OperatorCommand):
    help = (
        "Add a bearer token to an endpoint and print it, once. Without options the token has no limits. The endpoint's "
        "other tokens do not change."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("subdomain", help="the endpoint's subdomain, as printed by `connect`")
        parser.add_argument("--label", default="", help="the name of the token")
        parser.add_argument("--expires-in-days", type=int, metavar="DAYS", help="the token expires after this time")
        parser.add_argument(
            "--parent", metavar="TOKEN_ID", help="end with this token of the endpoint, within its limits"
        )
        parser.add_argument("--requests-per-minute", type=int, metavar="N", help="the most requests in any 60 seconds")
        parser.add_argument("--requests-per-day", type=int, metavar="N", help="the most requests in a day of UTC")
        parser.add_argument("--requests-per-month", type=int, metavar="N", help="the most requests in a month of UTC")
        parser.add_argument(
            "--concurrent-requests", type=int, metavar="N", help="the most requests in flight in one server process"
        )
        parser.add_argument(
            "--allow-path",
            action="append",
            default=[],
            metavar="'METHOD /GLOB'",
            help="allow only these requests, like 'POST /v1/chat/*' (repeatable)",
        )
        parser.add_argument(
            "--allow-network",
            action="append",
            default=[],
            metavar="CIDR",
            help="allow only clients in this network, like 192.0.2.0/24 (repeatable)",
        )
        parser.add_argument(
            "--allow-minting",
            action="store_true",
            help="allow calls that create credentials at the provider, which outlive the token",
        )
        parser.add_argument(
            "--allow-origin",
            action="append",
            default=[],
            metavar="ORIGIN",
            help="let web pages of this origin use the token, like https://app.example.com (repeatable)",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        days = options["expires_in_days"]
        if days is not None and not 1 <= days <= MAX_DAYS:
            raise CommandError(f"--expires-in-days must be from 1 to {MAX_DAYS}.")
        try:
            issued = services.issue_token(
                actor=self.actor,
                subdomain=options["subdomain"],
                label=options["label"],
                parent_id=options["parent"],
                expires_at=None if days is None else timezone.now() + timedelta(days=days),
                requests_per_minute=options["requests_per_minute"],
                requests_per_day=options["requests_per_day"],
                requests_per_month=options["requests_per_month"],
                concurrent_requests=options["concurrent_requests"],
                allowed_paths=options["allow_path"],
                allowed_networks=options["allow_network"],
                allow_minting=options["allow_minting"],
                allowed_origins=options["allow_origin"],
            )
        except (InvalidLimit, AccountsError) as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.print_json({"token": issued.plaintext, "token_id": issued.token.pk})
        else:
            self.print(issued.plaintext)
