"""`manage.py connect`: connect a provider from the command line."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.addresses import normalise_email
from accounts.audit import OPERATOR
from accounts.errors import InvalidEmail
from accounts.models import User
from credentials import providers, services
from credentials.errors import CredentialsError


class Command(BaseCommand):
    help = (
        "Connect a provider for a person and print the endpoint's URL and its first token, once. "
        "The provider key is read from standard input, so that it is in no shell history and no process list."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        known = ", ".join(provider.slug for provider in providers.available())
        parser.add_argument("--email", required=True, help="whose endpoint it is; the person is created if unknown")
        parser.add_argument("--provider", required=True, help=f"one of: {known}")
        parser.add_argument("--destination", default="", help="the API's URL, for azure-openai and custom")
        parser.add_argument("--header-name", default="", help="for custom (Authorization)")
        parser.add_argument("--header-template", default="", help="for custom (Bearer {{secret}})")
        parser.add_argument("--label", default="", help="a name to tell endpoints apart")
        parser.add_argument("--key-stdin", action="store_true", required=True, help="read the key from standard input")
        parser.add_argument(
            "--unchecked", action="store_true", help="save the key also if the provider cannot be asked about it"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            owner, _ = User.objects.get_or_create(email=normalise_email(options["email"]))
            connected = services.connect(
                actor=OPERATOR,
                owner=owner,
                provider=options["provider"],
                api_key=sys.stdin.read(),
                label=options["label"],
                destination_url=options["destination"],
                header_name=options["header_name"],
                header_template=options["header_template"],
                unchecked=options["unchecked"],
            )
        except (CredentialsError, InvalidEmail) as error:
            raise CommandError(str(error)) from None
        result = {
            "url": connected.endpoint.url,
            "subdomain": connected.endpoint.subdomain,
            "token": connected.plaintext,
            "token_id": connected.token.pk,
        }
        if options["json"]:
            self.stdout.write(json.dumps(result))
        else:
            self.stdout.write("".join(f"{name:<10} {value}\n" for name, value in result.items()))
