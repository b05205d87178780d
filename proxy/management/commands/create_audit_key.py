"""`manage.py create_audit_key`: create the key that signs checkpoints of the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from accounts.audit_chain import is_key_name
from accounts.commands import OperatorCommand
from proxy import audit_key
from proxy.audit_key import AuditKeyError


class Command(OperatorCommand):
    help = (
        "Create the key that signs checkpoints of the audit log, and print its public half, which verify_audit takes. "
        "The key itself is never printed, and an existing file is never replaced. Exit code 0, or 1 if nothing was "
        "created."
    )

    requires_system_checks = []  # it runs before the first migration

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--file", metavar="PATH", help="the key file (default: STRAKE_AUDIT_KEY_FILE)")
        parser.add_argument("--name", default="", help="the key's name (default: the host of STRAKE_BASE_URL, /audit)")

    def handle(self, *args: Any, file: str | None, name: str, **options: Any) -> None:
        if name and not is_key_name(name):
            raise CommandError("A name has no spaces and no plus.")
        try:
            path = Path(file).absolute() if file else audit_key.configured()
        except AuditKeyError as error:
            raise CommandError(str(error)) from None
        try:
            public = audit_key.create(path, name)
        except FileExistsError:
            raise CommandError(f"{path} exists. Nothing has been changed.") from None
        except OSError as error:
            raise CommandError(f"{path} cannot be created: {error.strerror}.") from None
        self.print(str(public), f"Fingerprint: {public.fingerprint}")
        self.print("Keep the first line where nobody who can write the database can change it.")
        if str(path) != settings.STRAKE_AUDIT_KEY_FILE:
            self.print(f"Set STRAKE_AUDIT_KEY_FILE={path}")
