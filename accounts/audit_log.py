"""Presenting the audit log: labels for actions and actors, and CSV export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from accounts.csv_export import csv_line
from accounts.models import AuditCheckpoint, AuditEvent

# Labels of the stored actions. An action without an entry is shown as stored.
ACTIONS = {
    "user.created": "Account created",
    "user.deleted": "Account deleted",
    "user.made_staff": "Made staff",
    "user.demoted": "No longer staff",
    "user.suspended": "Suspended",
    "user.resumed": "Suspension ended",
    "signin.link_made": "Sign-in link created",
    "signin.mail_failed": "Sign-in email couldn't be sent",
    "signin.succeeded": "Signed in",
    "signin.failed": "Sign-in failed",
    "session.signed_out": "Signed out",
    "session.ended": "Session ended",
    "session.others_ended": "Other sessions ended",
    "session.all_revoked": "All sessions ended",
    "access_token.created": "Access token created",
    "access_token.revoked": "Access token revoked",
    "notices.chosen": "Notices chosen",
    "webhook.set": "Webhook set",
    "webhook.rotated": "Webhook secret replaced",
    "webhook.resumed": "Webhook turned on again",
    "webhook.removed": "Webhook removed",
    "device_grant.allowed": "Program allowed to sign in",
    "device_grant.denied": "Program not allowed to sign in",
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
    "token.changed": "Token changed",
    "token.rotated": "Token rotated",
    "token.revoked": "Token revoked",
    "master_key.created": "Master key created",
    "master_key.promoted": "Master key made the primary",
    "master_key.rotated": "Master key rotated",
    "master_key.retired": "Master key retired",
    "master_key.removed": "Master key removed from the keyring",
    "audit.read": "Records of others read",
    "audit.erased": "Events of a deleted account erased",
    "database.backed_up": "Database backed up",
    "database.restored": "Database restored from a backup",
}
# New columns go to the end, so that scripts which count them keep working.
CSV_COLUMNS = ("at", "action", "actor", "subject_type", "subject_id", "subject", "address", "account", "via", "details")


def action_label(event: AuditEvent) -> str:
    return ACTIONS.get(event.action, event.action)


def actor_label(event: AuditEvent) -> str:
    if event.actor is not None:
        return event.actor.email
    if event.actor_id is not None:
        return "deleted account"
    return event.via or "nobody signed in" if event.ip else "operator, at the command line"


def acted_through(event: AuditEvent) -> str:
    """The session or access token that acted, with its id, or the command. "" if it is unknown."""
    identifier = event.details.get("acting_id")
    return f"{event.via}, id {identifier}" if identifier else event.via


def changes(event: AuditEvent) -> str:
    """What changed, on one line: `from https://a.example → https://b.example · header from X-Key → X-Api-Key`."""
    details = {name: value for name, value in event.details.items() if name not in ("acting_id", "acting_label")}
    parts = []
    for start in [name for name in details if name == "from" or name.endswith("_from")]:
        prefix = start.removesuffix("from")
        if f"{prefix}to" in details:
            before, after = _shown(details.pop(start)), _shown(details.pop(f"{prefix}to"))
            parts.append(f"{_words(prefix)} from {before} → {after}".strip())
    parts += [f"{_words(name)}: {_shown(value, name)}" for name, value in details.items() if value is not None]
    return " · ".join(parts)


def newest_checkpoint() -> AuditCheckpoint | None:
    return AuditCheckpoint.objects.order_by("-id").first()


def fingerprint() -> str:
    """The fingerprint of the key that signed the newest checkpoint, or "" if there is none."""
    newest = newest_checkpoint()
    return newest.fingerprint if newest else ""


def csv_lines(events: QuerySet[AuditEvent]) -> Iterator[str]:
    """Yield the events as lines of CSV. `details` is JSON, with the apostrophes of `csv_line`."""
    yield csv_line(CSV_COLUMNS)
    for event in _in_transaction(events):
        account = event.account.email if event.account else ""
        row = (
            event.at.isoformat(),
            event.action,
            actor_label(event),
            event.subject_type,
            event.subject_id,
            event.subject_label,
            event.ip or "",
            account,
            event.via,
            json.dumps(event.details, ensure_ascii=False, sort_keys=True) if event.details else "",
        )
        yield csv_line(row)


def _in_transaction(events: QuerySet[AuditEvent]) -> Iterator[AuditEvent]:
    """Yield the events from a cursor in a transaction, which works behind a pooler too."""
    with transaction.atomic():
        yield from events.iterator(chunk_size=500)


def _words(name: str) -> str:
    return name.replace("_", " ").strip()


def _shown(value: Any, name: str = "") -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if value is None or value == "":
        return "none"
    if isinstance(value, str) and name.endswith("_at"):
        return f"{datetime.fromisoformat(value).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
