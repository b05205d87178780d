"""Reading the audit trail: whose events one may see, in words, filtered, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta

from django.db.models import Q, QuerySet

from accounts.models import AuditEvent, User

# What each action is called on the page. A new action without an entry here is shown as it is stored.
ACTIONS = {
    "user.created": "Account created",
    "user.deleted": "Account deleted",
    "user.made_staff": "Made staff",
    "signin.link_made": "Sign-in link made",
    "signin.mail_failed": "Sign-in mail could not be sent",
    "signin.succeeded": "Signed in",
    "signin.failed": "Sign-in failed",
    "session.signed_out": "Signed out",
    "session.ended": "Session ended",
    "session.others_ended": "Other sessions ended",
    "session.all_revoked": "All sessions ended",
    "access_token.created": "Access token created",
    "access_token.revoked": "Access token revoked",
    "endpoint.connected": "Endpoint connected",
    "endpoint.renamed": "Endpoint renamed",
    "endpoint.paused": "Endpoint paused",
    "endpoint.resumed": "Endpoint resumed",
    "endpoint.limited": "Endpoint limit changed",
    "endpoint.deleted": "Endpoint deleted",
    "destination.changed": "Destination changed",
    "key.replaced": "Provider key replaced",
    "key.refused": "Provider refused a key",
    "token.issued": "Token added",
    "token.rotated": "Token rotated",
    "token.revoked": "Token revoked",
    "master_key.created": "Master key made",
    "master_key.rotated": "Master key rotated",
    "master_key.retired": "Master key retired",
    "master_key.removed": "Master key taken out of the keyring",
}
# Some spreadsheets take the full-width forms for the plain ones.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
CSV_COLUMNS = ("at", "action", "actor", "subject_type", "subject_id", "subject", "address", "account")


def events_for(viewer: User, *, everybody: bool = False) -> QuerySet[AuditEvent]:
    """The events `viewer` may see, newest first: their own trail, or for staff that of everybody."""
    events = AuditEvent.objects.select_related("actor", "account").order_by("-at", "-pk")
    if everybody and viewer.is_staff:
        return events
    return events.filter(account=viewer)


def narrow(
    events: QuerySet[AuditEvent],
    *,
    text: str = "",
    action: str = "",
    since: date | None = None,
    until: date | None = None,
) -> QuerySet[AuditEvent]:
    """Only the events that match all that is given. `text` may be in subject, actor or address; days are UTC."""
    if text:
        events = events.filter(
            Q(subject_label__icontains=text)
            | Q(subject_id__icontains=text)
            | Q(actor__email__icontains=text)
            | Q(ip__startswith=text)
        )
    if action:
        events = events.filter(action=action)
    if since:
        events = events.filter(at__gte=datetime.combine(since, time.min, UTC))
    if until:
        events = events.filter(at__lt=datetime.combine(until, time.min, UTC) + timedelta(days=1))
    return events


def what(event: AuditEvent) -> str:
    """What was done, in words."""
    return ACTIONS.get(event.action, event.action)


def who(event: AuditEvent) -> str:
    """Who acted, in words."""
    if event.actor is not None:
        return event.actor.email
    if event.actor_id is not None:
        return "deleted account"
    return "nobody signed in" if event.ip else "operator, at the command line"


def csv_lines(events: QuerySet[AuditEvent]) -> Iterator[str]:
    """The events as CSV, line by line, safe to open in a spreadsheet."""
    writer = csv.writer(_Line())
    yield writer.writerow(CSV_COLUMNS)
    for event in events.iterator(chunk_size=500):
        account = event.account.email if event.account else ""
        row = (
            event.at.isoformat(),
            event.action,
            who(event),
            event.subject_type,
            event.subject_id,
            event.subject_label,
            event.ip or "",
            account,
        )
        yield writer.writerow([_inert(value) for value in row])


class _Line:
    """What csv.writer writes to: hands each line back."""

    def write(self, line: str) -> str:
        return line


def _inert(value: str) -> str:
    """Spreadsheets run a cell that begins like a formula; a quote in front makes it text (OWASP, CSV injection)."""
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
