"""`manage.py prune`: remove rows that are past their retention time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser
from django.utils import timezone

from accounts import retention
from accounts.commands import OperatorCommand
from proxy.models import RefusalCount, RequestRecord, RequestRollup, UploadCapability


class Command(OperatorCommand):
    help = (
        "Remove expired rows: request records and counts of refusals after STRAKE_RETENTION_DAYS, hourly totals and "
        "audit events after a year (or after STRAKE_RETENTION_DAYS if that is longer), sign-in links after a day, "
        "unsent emails, upload URLs, cache entries, and ended sessions. Run it daily. It is safe at any time, and to "
        "interrupt. Exit code 0."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="count the rows and remove none")

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
        now = timezone.now()
        retained_since = now - timedelta(days=settings.STRAKE_RETENTION_DAYS)
        outdated = {
            "request records": RequestRecord.objects.filter(at__lt=retained_since),
            "counts of refusals": RefusalCount.objects.filter(minute__lt=retained_since),
            "hourly totals": RequestRollup.objects.filter(hour__lt=now - timedelta(days=retention.audit_days())),
            "upload URLs": UploadCapability.objects.filter(expires_at__lte=now),
            **retention.outdated(now),
        }
        for name, rows in outdated.items():
            number = rows.count() if dry_run else retention.prune(rows)
            self.print(f"{number:>8} {name} {'would be removed' if dry_run else 'removed'}")
