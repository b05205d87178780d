"""What the accounts app need not keep: links and sessions that are over, audit events past their time."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db.models import Model, QuerySet

from accounts.append_only import KEEP_DAYS
from accounts.models import AuditEvent, BrowserSession, SignInLink

_BATCH = 5000
# The database refuses by its own clock to let younger events go, and that clock may be behind this one.
_CLOCKS_APART = timedelta(hours=1)


def audit_days() -> int:
    """How many days audit events are kept: a year, or longer where request records are."""
    return max(KEEP_DAYS, settings.STRAKE_RETENTION_DAYS)


def outdated(now: datetime) -> dict[str, QuerySet[Model]]:
    """The rows that may go, by the name a person knows them under."""
    found: dict[str, QuerySet[Model]] = {
        "sign-in links": SignInLink.objects.filter(expires_at__lt=now - timedelta(days=1)),
        "ended sessions": BrowserSession.objects.filter(expires_at__lt=now),
        "session entries": Session.objects.filter(expire_date__lt=now),
        "audit events": AuditEvent.objects.filter(at__lt=now - timedelta(days=audit_days()) - _CLOCKS_APART),
    }
    return found


def prune(rows: QuerySet[Model]) -> int:
    """Delete `rows` in batches, so that no lock is held for long. Returns how many went."""
    gone = 0
    while ids := list(rows.values_list("pk", flat=True)[:_BATCH]):
        gone += rows.model._default_manager.filter(pk__in=ids)._raw_delete(using=rows.db)  # noqa: SLF001
    return gone
