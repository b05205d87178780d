"""`manage.py verify_vault`: check that every sealed key opens."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.core.management.base import CommandError
from tqdm import tqdm

from accounts.commands import OperatorCommand
from credentials.models import SealedKey
from credentials.vault import key_holders, keyring
from credentials.vault.keyring import Keyring
from proxy import vault_check


class Command(OperatorCommand):
    help = (
        "Check that every sealed key opens in its row, and that every running server holds the master keys for them. "
        "No key is shown. If some do not open, print one line for each endpoint that needs its key again or for each "
        "server, and exit with code 1."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        ring = keyring.current()
        total, broken = vault_check.check(
            ring, watch=lambda rows, total: tqdm(rows, "Verifying", total, unit=" rows", disable=None)
        )
        for credential, problem in broken.values():
            endpoint = credential.endpoint
            self.print(f"{endpoint.subdomain} ({endpoint.owner.email}): {problem}.")
        if broken:
            raise CommandError(
                f"{len(broken)} of {total} sealed keys do not open. Their endpoints need their keys again."
            )
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
