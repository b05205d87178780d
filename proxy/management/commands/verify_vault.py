from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import track

from credentials.models import Credential
from proxy.verification import verify


class Command(BaseCommand):
    help = (
        "Check that every sealed key opens where it stands, without showing any. Exit code 1 and one line for each "
        "endpoint that needs its key again."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        total = Credential.objects.count()
        console = Console(stderr=True)
        failed = 0
        for finding in track(verify(), "Verifying", total, console=console, disable=not console.is_terminal):
            if finding.problem:
                failed += 1
                self.stdout.write(f"{finding.subdomain} ({finding.owner}): {finding.problem}.")
        if failed:
            raise CommandError(f"{failed} of {total} sealed keys do not open. Their endpoints need their keys again.")
        self.stdout.write(self.style.SUCCESS(f"{total} sealed key{'s' if total != 1 else ''}: all open."))
