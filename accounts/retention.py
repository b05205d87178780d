"""Retention of sign-in links, emails, notices, sessions and audit events. `manage.py prune` deletes outdated rows."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connection
from django.db.models import Model, QuerySet
from django.utils import timezone

from accounts import outbox
from accounts.models import AuditEvent, BrowserSession, CacheEntry, DeviceGrant, Notice, OutboxMail, SignInLink

# Database triggers refuse to delete younger events, but for those of deleted accounts (migration accounts.0008). The
# links of the hash chain stay, without anything from which the content could be guessed.
MIN_AUDIT_DAYS = 365
NOTICE_DAYS = 30  # longer than any quiet time
_BATCH_SIZE = 5000
# The triggers and the outbox use the database's clock. The caller's may be ahead of it.
_MAX_CLOCK_SKEW = timedelta(hours=1)


def database_now() -> datetime:
    """Return the time by the database's clock, by which the triggers and the outbox count too."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        (now,) = cursor.fetchone()
    found: datetime = now
    return found


def audit_days() -> int:
    """How many days audit events are kept: at least a year, and at least as long as request records."""
    return max(MIN_AUDIT_DAYS, settings.STRAKE_RETENTION_DAYS)


def outdated(now: datetime) -> dict[str, QuerySet[Model]]:
    """The rows to delete, by the name that `manage.py prune` prints."""
    found: dict[str, QuerySet[Model]] = {
        "sign-in links": SignInLink.objects.filter(expires_at__lt=now - timedelta(days=1)),
        "device codes": DeviceGrant.objects.filter(expires_at__lt=now - timedelta(days=1)),
        "unsent emails": OutboxMail.objects.filter(created_at__lt=now - outbox.max_age() - _MAX_CLOCK_SKEW),
        "notices": Notice.objects.filter(seen_at__lt=now - timedelta(days=NOTICE_DAYS)),
        "cache entries": CacheEntry.objects.filter(expires_at__lt=now),
        "ended sessions": BrowserSession.objects.filter(expires_at__lt=now),
        "session entries": Session.objects.filter(expire_date__lt=now),
        "audit events": AuditEvent.objects.filter(at__lt=now - timedelta(days=audit_days()) - _MAX_CLOCK_SKEW),
    }
    return found


def prune(rows: QuerySet[Model]) -> int:
    """Delete `rows` in batches, so that no lock is held for long. Returns the number of deleted rows."""
    deleted = 0
    while ids := list(rows.values_list("pk", flat=True)[:_BATCH_SIZE]):
        deleted += rows.model._default_manager.filter(pk__in=ids)._raw_delete(using=rows.db)  # noqa: SLF001
    return deleted
