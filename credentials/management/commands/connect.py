"""`manage.py connect`: connect a provider from the command line."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts.addresses import normalise_email
from accounts.commands import OperatorCommand, email_or_local
from accounts.errors import AccountsError
from accounts.sign_in.magic_links import get_or_create_user
from credentials import places, providers, services
from credentials.errors import CredentialsError


class Command(OperatorCommand):
    help = (
        "Connect a provider for a person and print the endpoint's URL and its first token, once. "
        "The provider key is read from standard input, so that no shell history and no process list contains it."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        known = ", ".join(provider.slug for provider in providers.available())
        parser.add_argument(
            "--email", help="the owner of the endpoint, created if unknown (default on loopback: the first account)"
        )
        parser.add_argument("--provider", required=True, help=f"one of: {known}")
        parser.add_argument("--destination", default="", help="the API's URL, if the provider has no fixed one")
        parser.add_argument("--header-name", default="", help="custom only (default: Authorization)")
        parser.add_argument("--header-template", default="", help="custom only (default: Bearer {{secret}})")
        parser.add_argument(
            "--place",
            action="append",
            default=[],
            metavar="LINE",
            help="custom only, repeatable: another header, 'Name: value', or query parameter, '?name=value'. "
            "{{secret}} stands for the key, {{secret:base64}} for its Base64 form. With a key in one of them and no "
            "--header-*, no other header carries it. Other users of this machine can see arguments, so no secret "
            "belongs in one.",
        )
        kinds = sorted({kind for provider in providers.available() for kind in provider.kinds})
        parser.add_argument(
            "--kind",
            choices=kinds,
            default=providers.STATIC,
            help="what standard input has: a key (default), the client secret of an Entra ID application, or the JSON "
            "key file of a Google service account",
        )
        parser.add_argument("--tenant", default="", help="azure_entra only: the directory (tenant) ID")
        parser.add_argument("--client-id", default="", help="azure_entra only: the application (client) ID")
        parser.add_argument("--label", default="", help="the name of the endpoint")
        parser.add_argument("--key-stdin", action="store_true", required=True, help="read the key from standard input")
        parser.add_argument(
            "--unchecked", action="store_true", help="save the key even if the provider cannot be asked about it"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            owner = get_or_create_user(normalise_email(email_or_local(options["email"])), by=self.actor)
            connected = services.connect(
                actor=self.actor,
                owner=owner,
                provider=options["provider"],
                api_key=sys.stdin.read().removeprefix("\ufeff"),  # some editors write a byte order mark first
                label=options["label"],
                destination_url=options["destination"],
                header_name=options["header_name"],
                header_template=options["header_template"],
                places=places.parse(options["place"]),
                kind=options["kind"],
                tenant=options["tenant"],
                client_id=options["client_id"],
                unchecked=options["unchecked"],
            )
        except (CredentialsError, AccountsError) as error:
            raise CommandError(str(error)) from None
        result = {
            "url": connected.endpoint.url,
            "subdomain": connected.endpoint.subdomain,
            "token": connected.plaintext,
            "token_id": connected.token.pk,
        }
        if options["json"]:
            self.print_json(result)
        else:
            self.print(*(f"{name:<10} {value}" for name, value in result.items()))
