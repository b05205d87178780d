"""After a restore to an earlier point: end again what was ended since.

The restored database knows nothing of what happened after the backup. Tokens that were revoked since work again, and
so does the secret that a rotated token had at that time. An audit trail that was exported before the loss says what to
end: each line is a JSON object with at least `at`, `action`, `subject_type` and `subject_id`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from accounts import access_tokens, users
from accounts.actors import Operator
from accounts.models import AccessToken, AuditEvent, User
from accounts.plain_text import replace_unsafe
from credentials import services
from credentials.models import BearerToken, Endpoint
from strake.backups import BACKED_UP, RESTORED
from strake.backups.archive import BackupError

# A transaction that began before the backup and ended after it is not in the backup, but has an earlier time.
OVERLAP = timedelta(hours=1)
_REASON = "again, after a restore"

# What ends something, by the action in the audit log. The last one of each group about one subject decides. The groups
# are in the order in which they are repeated: deleting a person deletes their endpoints, and so on.
_GROUPS: tuple[Mapping[str, str], ...] = (
    {"user.deleted": "erase"},
    {"user.suspended": "suspend", "user.resumed": ""},
    {"user.demoted": "demote", "user.made_staff": ""},
    {"endpoint.deleted": "delete"},
    {"endpoint.paused": "pause", "endpoint.resumed": ""},
    {"token.revoked": "revoke", "token.rotated": "revoke"},
    {"access_token.revoked": "revoke access token"},
)
# What needs nothing: it gave something that the restored database does not know, or it is over.
_HARMLESS = frozenset(
    {
        "access_token.created",
        "audit.read",
        BACKED_UP,
        RESTORED,
        "endpoint.connected",
        "endpoint.renamed",
        "key.refused",
        "token.issued",
        "user.created",
    }
)
_HARMLESS_SUBJECTS = ("session.", "signin.")  # a restored database has no session and no link


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the exported audit trail."""

    at: datetime
    action: str
    subject_id: str
    label: str

    @property
    def words(self) -> str:
        return f"{self.action} {self.label or self.subject_id} ({self.subject_id}) on {self.at:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that has to end again, because of `event`."""

    verb: str
    event: Event

    @property
    def words(self) -> str:
        return f"{self.verb} {self.event.subject_id}: {self.event.words}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What `carry_out` does, and the events that only somebody who knows more can repeat."""

    steps: list[Step]
    by_hand: list[Event]


def read(lines: Iterable[str]) -> Iterator[Event]:
    """The events in an exported audit trail. Objects without an action, such as checkpoints, are skipped.

    Raises `BackupError` with the number of a line that is not an event.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = dict(json.loads(line).items())
            if "action" not in found:
                continue
            at = datetime.fromisoformat(found["at"])
            at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
            yield Event(
                at,
                str(found["action"]),
                str(found["subject_id"]),
                replace_unsafe(str(found.get("subject_label") or "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BackupError(f"Line {number} is no event of an audit trail. Nothing has been changed.") from None


def backup_time() -> datetime:
    """The time of the backup that was restored last, or of the newest event if none was."""
    restored = AuditEvent.objects.filter(action=RESTORED).order_by("-at").first()
    if restored is not None:
        return datetime.fromisoformat(restored.details["taken_at"])
    newest = AuditEvent.objects.order_by("-at").first()
    return newest.at if newest else datetime.min.replace(tzinfo=UTC)


def plan(events: Iterable[Event], since: datetime) -> Plan:
    """What to end again: the events of the trail that the restored database does not have."""
    start = since - OVERLAP if since.year > 1 else since
    known = set(AuditEvent.objects.filter(at__gte=start).values_list("at", "action", "subject_id"))
    missing = [one for one in events if one.at >= start and (one.at, one.action, one.subject_id) not in known]
    missing.sort(key=lambda one: one.at)
    steps = []
    for group in _GROUPS:
        last = {one.subject_id: one for one in missing if one.action in group}
        steps += [Step(group[one.action], one) for one in last.values() if group[one.action]]
    repeated = {action for group in _GROUPS for action in group}
    by_hand = [
        one
        for one in missing
        if one.action not in _HARMLESS | repeated and not one.action.startswith(_HARMLESS_SUBJECTS)
    ]
    return Plan([step for step in steps if _is_open(step)], by_hand)


def carry_out(step: Step, actor: Operator) -> None:
    """End one thing. Does nothing if it has ended meanwhile, or is gone."""
    verb = _VERBS[step.verb]
    for row in verb.open(step.event.subject_id):
        verb.end(actor, row)


# --- Without an audit trail ------------------------------------------------------------------------------------------


def working_tokens() -> list[BearerToken]:
    """Every bearer token that works, by endpoint."""
    found = BearerToken.objects.live().filter(endpoint__owner__suspended_at=None).select_related("endpoint__owner")
    return list(found.order_by("endpoint__owner__email", "endpoint__created_at", "created_at"))


def working_access_tokens() -> list[AccessToken]:
    """Every access token that works, by person."""
    found = AccessToken.objects.live().filter(user__suspended_at=None).select_related("user")
    return list(found.order_by("user__email", "created_at"))


def staff() -> list[User]:
    """Everybody who may open the operators' pages."""
    return list(User.objects.filter(is_staff=True, suspended_at=None).order_by("email"))


def revoke_all(actor: Operator) -> int:
    """Revoke every token and access token that works. Returns how many."""
    tokens, others = working_tokens(), working_access_tokens()
    for token in tokens:
        services.revoke_token(actor=actor, token_id=token.pk)
    for other in others:
        access_tokens.revoke_access_token(actor=actor, token_id=other.pk)
    return len(tokens) + len(others)


# --- Steps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Verb:
    """How to end one kind of thing. `open` is the rows that have not ended."""

    open: Callable[[str], QuerySet[Any]]
    end: Callable[[Operator, Any], object]


_VERBS: Mapping[str, _Verb] = {
    "erase": _Verb(lambda pk: _people(pk), lambda actor, user: users.erase(actor=actor, user=user)),
    "suspend": _Verb(
        lambda pk: _people(pk).filter(suspended_at=None),
        lambda actor, user: users.suspend(actor=actor, user=user, reason=_REASON),
    ),
    "demote": _Verb(
        lambda pk: _people(pk).filter(is_staff=True), lambda actor, user: users.demote(actor=actor, user=user)
    ),
    "delete": _Verb(
        lambda subdomain: Endpoint.objects.filter(subdomain=subdomain),
        lambda actor, row: services.delete_endpoint(actor=actor, subdomain=row.subdomain, confirmation=row.subdomain),
    ),
    "pause": _Verb(
        lambda subdomain: Endpoint.objects.filter(subdomain=subdomain, paused_at=None),
        lambda actor, row: services.pause(actor=actor, subdomain=row.subdomain),
    ),
    "revoke": _Verb(
        lambda pk: BearerToken.objects.filter(pk=pk, revoked_at=None),
        lambda actor, row: services.revoke_token(actor=actor, token_id=row.pk),
    ),
    "revoke access token": _Verb(
        lambda pk: AccessToken.objects.filter(pk=pk, revoked_at=None),
        lambda actor, row: access_tokens.revoke_access_token(actor=actor, token_id=row.pk),
    ),
}


def _is_open(step: Step) -> bool:
    return _VERBS[step.verb].open(step.event.subject_id).exists()


def _people(pk: str) -> QuerySet[User]:
    try:
        return User.objects.filter(pk=UUID(pk))
    except ValueError:
        return User.objects.none()
