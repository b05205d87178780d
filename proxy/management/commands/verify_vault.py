"""`manage.py verify_vault`: check that every sealed key opens."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.db import transaction
from tqdm import tqdm

from accounts.commands import OperatorCommand
from credentials.errors import UnknownMasterKey
from credentials.models import Credential
from credentials.vault import keyring
from credentials.vault.keyring import Keyring
from proxy.unsealing import is_authentic


class Command(OperatorCommand):
    help = (
        "Check that every sealed key opens in its row. No key is shown. If some do not open, print one line for each "
        "endpoint that needs its key again, and exit with code 1."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        ring = keyring.current()
        credentials = Credential.objects.select_related("endpoint__owner", "sealed_key").order_by("pk")
        total = credentials.count()
        rows = credentials.iterator(chunk_size=500)
        failed = 0
        with transaction.atomic():  # in which a cursor works behind a pooler too
            for credential in tqdm(rows, "Verifying", total, unit=" rows", disable=None):
                if problem := _problem(credential, ring):
                    failed += 1
                    endpoint = credential.endpoint
                    self.print(f"{endpoint.subdomain} ({endpoint.owner.email}): {problem}.")
        if failed:
            raise CommandError(f"{failed} of {total} sealed keys do not open. Their endpoints need their keys again.")
        self.print(f"{total} sealed key{'s' if total != 1 else ''}: all open.", style=self.style.SUCCESS)


def _problem(credential: Credential, ring: Keyring) -> str:
    """Why a credential does not open, or an empty string if it does."""
    if not hasattr(credential, "sealed_key"):
        return "has no sealed key"
    try:
        if is_authentic(credential.sealed(), credential.binding(), ring):
            return ""
    except UnknownMasterKey as error:
        return f"needs the master key {error.key_id!r}, which is not in the keyring"
    return "does not open, because it was changed, moved, or sealed under another master key"
