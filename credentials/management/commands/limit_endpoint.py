"""`manage.py limit_endpoint`: limit the concurrent requests of an endpoint."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts.commands import OperatorCommand
from accounts.errors import NotFound
from credentials import services
from credentials.errors import InvalidLimit


class Command(OperatorCommand):
    help = (
        "Limit how many requests of an endpoint each server process forwards at a time, including streams and "
        "WebSocket connections. Further requests get the response 429. The limit applies from the next request on, "
        "without a restart, and requests in flight continue. It cannot exceed STRAKE_MAX_STREAMS."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("subdomain", help="the endpoint's subdomain, as printed by `connect`")
        limit = parser.add_mutually_exclusive_group(required=True)
        limit.add_argument("--at-once", type=int, metavar="N", help="the most concurrent requests in a server process")
        limit.add_argument(
            "--no-limit", action="store_true", help="remove the limit. Only STRAKE_MAX_STREAMS counts then"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        limit = options["at_once"]
        try:
            endpoint = services.limit_endpoint(actor=self.actor, subdomain=options["subdomain"], max_streams=limit)
        except (InvalidLimit, NotFound) as error:
            raise CommandError(str(error)) from None
        result = "no limit" if limit is None else f"at most {limit} concurrent requests in each server process"
        self.print(f"{endpoint.subdomain} ({endpoint.label}): {result}.")
