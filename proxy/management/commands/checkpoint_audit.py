"""`manage.py checkpoint_audit`: sign a checkpoint of the audit log now."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts.commands import OperatorCommand
from proxy import audit_checkpoints, audit_key
from proxy.audit_checkpoints import ChainBroken
from proxy.audit_key import AuditKeyError


class Command(OperatorCommand):
    help = (
        "Sign a checkpoint of the audit log now and print it. A running Strake signs one every hour. Refuses if the "
        "log contradicts the checkpoint before. Exit code 0, 1 without a usable key, or 2 if the log has been tampered "
        "with."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--key", action="store_true", help="print the public key instead, and sign nothing")

    def handle(self, *args: Any, key: bool, **options: Any) -> None:
        try:
            if key:
                self.print(str(audit_key.load().public))
                return
            signed = audit_checkpoints.sign()
        except AuditKeyError as error:
            raise CommandError(str(error)) from None
        except ChainBroken as error:
            raise CommandError(f"{error} Nothing has been signed.", returncode=2) from None
        if signed is not None:
            self.print(*signed.note.splitlines())
