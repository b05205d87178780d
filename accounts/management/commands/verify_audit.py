"""`manage.py verify_audit`: verify an exported audit log. `python -m accounts.verify_audit` needs no settings."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts import verify_audit
from accounts.audit_chain import NotACheckpoint, NotAKey
from accounts.commands import OperatorCommand


class Command(OperatorCommand):
    help = verify_audit.DESCRIPTION
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        verify_audit.add_arguments(parser)

    def handle(self, *args: Any, file: str, key: str, checkpoint: list[str], since: int, **options: Any) -> None:
        try:
            self.print(verify_audit.run(file, key, checkpoint, since))
        except verify_audit.Tampered as error:
            raise CommandError(str(error)) from None
        except (OSError, NotAKey, NotACheckpoint, UnicodeDecodeError) as error:
            raise CommandError(str(error), returncode=2) from None
