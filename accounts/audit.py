"""Writing the audit log. Call `record` inside the transaction that makes the change."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.utils import timezone

from accounts.actors import Operator, Person, Staff, Visitor
from accounts.addresses import parse_address
from accounts.models import AccessToken, AuditEvent, BrowserSession, User
from accounts.plain_text import replace_unsafe

MAX_VIA_LENGTH = 80
MAX_DETAIL_LENGTH = 512  # the longest destination
MAX_INTEGER = 2**53 - 1  # RFC 8785 has no larger ones
# What one person reads of others is recorded once an hour for each page and filter, and at most this often.
READINGS_PER_HOUR = 100
_READING_INTERVAL = timedelta(hours=1)
# Where `actor_of` finds the session of a request. No header of a client can have such a name (PEP 3333).
SESSION_KEY = "strake/browser_session"


def request_ip(request: HttpRequest) -> str | None:
    """The client's IP address, which the proxy half computes and sends. None if it sent no valid one.

    The web half trusts no other header, and its peer is always a Unix socket.
    """
    address = parse_address(request.META.get("HTTP_X_STRAKE_CLIENT", ""))
    return str(address) if address else None


def actor_of(request: HttpRequest) -> Person:
    """The signed-in person who sent a request. Raises `TypeError` if nobody is signed in."""
    if not isinstance(request.user, User):
        raise TypeError("Nobody is signed in. Protect the view with login_required.")
    return session_actor(request.user, request_ip(request), request.META.get(SESSION_KEY))


def staff_of(request: HttpRequest) -> Staff:
    """The member of staff who sent a request, to act as an operator. Raises `PermissionDenied` if they are none."""
    person = actor_of(request)
    if not person.user.is_staff:
        raise PermissionDenied
    return Staff(via=person.via, person=person)


def session_actor(user: User, ip: str | None, session: BrowserSession | None) -> Person:
    """The person who acts through a session."""
    if session is None:
        return Person(user, ip)
    # Six characters tell a person's sessions apart.
    return Person(user, ip, f"session {session.pk.removeprefix('ses_')[:6]}", session.pk, session.browser)


def token_actor(request: HttpRequest, token: AccessToken) -> Person:
    """The person for whom a request with an access token acts."""
    name = f"access token {token.preview} ({token.label})"
    return Person(token.user, request_ip(request), name, token.pk, token.label)


def record(
    actor: Person | Operator | Visitor,
    action: str,
    *,
    account: User | None,
    subject_type: str,
    subject_id: object,
    subject_label: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Record one event.

    `action` is `<subject>.<verb>`, for example `token.rotated`. `account` is the user in whose audit log it appears.
    `details` says what changed, such as `{"from": …, "to": …}`. It is flat, and never contains a secret. The id and the
    label of the session or access token that acted are added to it, so they are part of the hash chain.
    """
    if isinstance(actor, Staff):
        actor = actor.person
    AuditEvent.objects.create(
        account=account,
        actor=actor.user if isinstance(actor, Person) else None,
        action=action,
        subject_type=subject_type,
        subject_id=str(subject_id),
        subject_label=replace_unsafe(subject_label)[:254],
        ip=None if isinstance(actor, Operator) else actor.ip,
        via=_shortened(replace_unsafe(actor.via), MAX_VIA_LENGTH),
        details=_plain_details(actor, details or {}),
    )


def record_reading(actor: Person, page: str, *, subject: object = "", filters: Mapping[str, Any] | None = None) -> None:
    """Record that staff read the records of others on a page.

    Once an hour for each session, page, subject and filter, and at most `READINGS_PER_HOUR` times. The event that
    reaches this limit says so, and the further ones of that hour are not recorded.
    """
    details = _plain_details(actor, filters or {})
    recent = AuditEvent.objects.filter(
        account=actor.user, action="audit.read", via=actor.via, at__gt=timezone.now() - _READING_INTERVAL
    )
    if recent.filter(subject_label=page, subject_id=str(subject), details=details).exists():
        return
    count = recent.count()
    if count >= READINGS_PER_HOUR:
        return
    if count == READINGS_PER_HOUR - 1:
        details["more"] = "not recorded this hour"
    record(
        actor,
        "audit.read",
        account=actor.user,
        subject_type="page",
        subject_id=subject,
        subject_label=page,
        details=details,
    )


def session_details(session: BrowserSession) -> dict[str, Any]:
    """What an event says of a session that is not the one that acts."""
    return {"session": session.pk.removeprefix("ses_")[:6], "browser": session.browser, "address": session.ip}


def _plain_details(actor: Person | Operator | Visitor, details: Mapping[str, Any]) -> dict[str, Any]:
    acting = {}
    if isinstance(actor, Person) and actor.acting_id:
        acting = {"acting_id": actor.acting_id, "acting_label": actor.acting_label}
    return {name: _plain(value) for name, value in {**details, **acting}.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bool | None) or (isinstance(value, int) and abs(value) <= MAX_INTEGER):
        return value
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return _shortened(replace_unsafe(str(value)), MAX_DETAIL_LENGTH)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
