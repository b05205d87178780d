"""`manage.py issue_token`: add a bearer token to an endpoint, with limits of its own."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.audit import OPERATOR
from credentials import services
from credentials.errors import CredentialsError

MAX_DAYS = 3650


class Command(BaseCommand):
    help = (
        "Add a bearer token to an endpoint and print it, once. Without options it may do whatever the endpoint may; "
        "each option narrows that. The endpoint's other tokens stay as they are."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("subdomain", help="the endpoint, as `connect` printed it")
        parser.add_argument("--label", default="", help="a name to tell tokens apart")
        parser.add_argument("--expires-in-days", type=int, metavar="DAYS", help="the token ends by itself after that")
        parser.add_argument("--requests-per-minute", type=int, metavar="N", help="at most so many in any 60 seconds")
        parser.add_argument(
            "--allow-path",
            action="append",
            default=[],
            metavar="'METHOD /GLOB'",
            help="only such requests, like 'POST /v1/chat/*'; may be given several times",
        )
        parser.add_argument(
            "--allow-network",
            action="append",
            default=[],
            metavar="CIDR",
            help="only from such addresses, like 192.0.2.0/24; may be given several times",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        days = options["expires_in_days"]
        if days is not None and not 1 <= days <= MAX_DAYS:
            raise CommandError(f"--expires-in-days must be from 1 to {MAX_DAYS}.")
        try:
            issued = services.issue_token(
                actor=OPERATOR,
                subdomain=options["subdomain"],
                label=options["label"],
                expires_at=None if days is None else timezone.now() + timedelta(days=days),
                requests_per_minute=options["requests_per_minute"],
                allowed_paths=options["allow_path"],
                allowed_networks=options["allow_network"],
            )
        except CredentialsError as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.stdout.write(json.dumps({"token": issued.plaintext, "token_id": issued.token.pk}))
        else:
            self.stdout.write(issued.plaintext)
