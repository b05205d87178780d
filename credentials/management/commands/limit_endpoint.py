"""`manage.py limit_endpoint`: say how many requests of an endpoint may be in flight."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.audit import OPERATOR
from credentials import services
from credentials.errors import CredentialsError


class Command(BaseCommand):
    help = (
        "Say how many requests of an endpoint, streams and WebSocket connections included, a server process forwards "
        "at a time. Further ones are answered with 429. It counts from the next request on, without a restart; "
        "requests under way go on. Each server process counts by itself. STRAKE_MAX_STREAMS stays the most."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("subdomain", help="the endpoint, as `connect` printed it")
        limit = parser.add_mutually_exclusive_group(required=True)
        limit.add_argument("--at-once", type=int, metavar="N", help="at most so many at a time")
        limit.add_argument("--no-limit", action="store_true", help="no limit but STRAKE_MAX_STREAMS")

    def handle(self, *args: Any, **options: Any) -> None:
        most = options["at_once"]
        try:
            endpoint = services.limit_endpoint(actor=OPERATOR, subdomain=options["subdomain"], max_streams=most)
        except CredentialsError as error:
            raise CommandError(str(error)) from None
        words = "no limit of its own" if most is None else f"at most {most} at a time in each server process"
        self.stdout.write(f"{endpoint.subdomain} ({endpoint.label}): {words}.")
