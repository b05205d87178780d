"""`manage.py verify_vault`: check that every sealed key opens."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from tqdm import tqdm

from accounts.commands import OperatorCommand
from credentials.vault import keyring
from proxy import vault_check


class Command(OperatorCommand):
    help = (
        "Check that every sealed key opens in its row. No key is shown. If some do not open, print one line for each "
        "endpoint that needs its key again, and exit with code 1."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        total, broken = vault_check.check(
            keyring.current(), watch=lambda rows, total: tqdm(rows, "Verifying", total, unit=" rows", disable=None)
        )
        for credential, problem in broken.values():
            endpoint = credential.endpoint
            self.print(f"{endpoint.subdomain} ({endpoint.owner.email}): {problem}.")
        if broken:
            raise CommandError(
                f"{len(broken)} of {total} sealed keys do not open. Their endpoints need their keys again."
            )
        self.print(f"{total} sealed key{'s' if total != 1 else ''}: all open.", style=self.style.SUCCESS)
