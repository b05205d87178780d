"""The audit trail: who did what to what, from where. Call `record` inside the transaction of the deed itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from django.conf import settings
from django.http import HttpRequest

from accounts.addresses import client_address
from accounts.models import AuditEvent, User


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a person from an address, or (`user` None) an operator at the command line, who may act for all."""

    user: User | None
    ip: str | None = None


OPERATOR = Actor(None)

# Control characters and those that turn the direction of text: they would rewrite the line in front of its reader.
_DECEIVING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def request_ip(request: HttpRequest) -> str | None:
    """The client's address as the configured number of trusted proxies tells it."""
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "")
    address = client_address(
        request.META.get("REMOTE_ADDR", ""), [forwarded] if forwarded else [], settings.STRAKE_TRUSTED_PROXIES
    )
    return str(address) if address else None


def actor_of(request: HttpRequest) -> Actor:
    """The signed-in person behind a request."""
    if not isinstance(request.user, User):
        raise TypeError("Only a signed-in person acts; protect the view with login_required.")
    return Actor(request.user, request_ip(request))


def record(
    actor: Actor, action: str, *, account: User | None, subject_type: str, subject_id: object, subject_label: str = ""
) -> None:
    """Add one event. `action` is `<thing>.<deed>` (`token.rotated`); `account` is whose trail it belongs to."""
    AuditEvent.objects.create(
        account=account,
        actor=actor.user,
        action=action,
        subject_type=subject_type,
        subject_id=str(subject_id),
        subject_label=_DECEIVING.sub("\ufffd", subject_label)[:254],
        ip=actor.ip,
    )
