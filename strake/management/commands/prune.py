from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from accounts import retention
from proxy.models import RequestRecord, RequestRollup


class Command(BaseCommand):
    help = (
        "Remove what is older than it needs to be: request records after STRAKE_RETENTION_DAYS, hourly figures and "
        "audit events after a year (later where STRAKE_RETENTION_DAYS is longer), sign-in links after a day, sessions "
        "once they ended. Safe to run at any time and to interrupt; run it daily. Exit code 0."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="count what would go and remove nothing")

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
        now = timezone.now()
        outdated = {
            "request records": RequestRecord.objects.filter(
                at__lt=now - timedelta(days=settings.STRAKE_RETENTION_DAYS)
            ),
            "hourly figures": RequestRollup.objects.filter(hour__lt=now - timedelta(days=retention.audit_days())),
            **retention.outdated(now),
        }
        for name, rows in outdated.items():
            number = rows.count() if dry_run else retention.prune(rows)
            self.stdout.write(f"{number:>8} {name} {'would go' if dry_run else 'removed'}")
