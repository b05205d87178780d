"""`manage.py verify_vault`: check that every sealed key opens."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.core.management.base import CommandError
from django.db import transaction
from tqdm import tqdm

from accounts.commands import OperatorCommand
from credentials.errors import UnknownMasterKey
from credentials.models import Credential, SealedKey
from credentials.vault import key_holders, keyring
from credentials.vault.keyring import Keyring
from proxy.unsealing import is_authentic


class Command(OperatorCommand):
    help = (
        "Check that every sealed key opens in its row, and that every running server holds the master keys for them. "
        "No key is shown. If some do not open, print one line for each endpoint that needs its key again or for each "
        "server, and exit with code 1."
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
        self._check_servers(ring)

    def _check_servers(self, ring: Keyring) -> None:
        """This command opens keys with the keyring of this host. Heartbeats tell what the servers have."""
        used = Counter(SealedKey.objects.values_list("master_key_id", flat=True))
        behind = []
        for process in (servers := key_holders.running()):
            if lacking := {key_id: rows for key_id, rows in used.items() if not key_holders.has(process, key_id, ring)}:
                behind.append(process)
                self.print(
                    f"{process.name} opens {used.total() - sum(lacking.values())} of {used.total()}: it lacks "
                    f"{' and '.join(lacking)}, or has another key under the same id."
                )
        if behind:
            raise CommandError(f"Give these hosts the keyring of this one: {key_holders.names(behind)}.")
        if servers:
            self.print(f"Running servers that hold the master keys: {key_holders.names(servers)}.")


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
