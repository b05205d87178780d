"""When backups were made, by the audit trail."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.utils import timezone

from accounts.models import AuditEvent
from strake.backups import BACKED_UP

DAYS = 30  # how far to look back, so that a long trail costs nothing


def last() -> datetime | None:
    """Return when `manage.py backup` last made a backup, or None if it made none in the last `DAYS` days."""
    events = AuditEvent.objects.filter(at__gt=timezone.now() - timedelta(days=DAYS), action=BACKED_UP)
    return events.order_by("-at").values_list("at", flat=True).first()
