"""The audit log in the management API: a person's own events with their links of the hash chain, and checkpoints."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Field, Query, Router, Schema

from accounts import audit_export, audit_log
from accounts.actors import Person
from accounts.errors import NotFound
from accounts.models import AuditEvent, AuditLink
from credentials.api.schemas import ErrorAnswer

ERRORS = frozenset({400, 401, 404, 422, 429})
MAX_EVENTS = 500

router = Router()


class ChainedEvent(Schema):
    sequence: int
    at: str = Field(description="In UTC, as it is in the hash.")
    account: str | None
    actor: str | None = Field(description="Id of the person who acted, or null for an operator or a visitor.")
    action: str
    subject_type: str
    subject_id: str
    subject_label: str
    ip: str | None
    via: str
    details: dict[str, Any]
    nonce: str
    content_hash: str
    previous_hash: str
    hash: str


class ChainedEvents(Schema):
    events: list[ChainedEvent]
    next: int | None = Field(description="Pass it as since for further events. Null if there are none now.")


class SignedCheckpoint(Schema):
    note: str = Field(description="The signed note. Keep it to prove later that nothing has been changed.")
    key: str = Field(description="The public key, as verify_audit takes it.")
    fingerprint: str
    size: int
    created_at: datetime


class OneCheckpoint(Schema):
    checkpoint: SignedCheckpoint


@router.get("", response={200: ChainedEvents, ERRORS: ErrorAnswer}, summary="List audit events")
def list_audit_events(
    request: HttpRequest,
    since: Annotated[int, Query(ge=0, le=2**53, description="Only events after this number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 100,
) -> ChainedEvents:
    """Your own events, oldest first. The numbers have gaps, since the hash chain runs over everybody's events."""
    actor = request.auth  # type: ignore[attr-defined]
    if not isinstance(actor, Person):
        raise TypeError("The API acts for a person only.")
    own = AuditEvent.objects.visible_to(actor).values("pk")
    links = list(AuditLink.objects.filter(sequence__gt=since, event_id__in=own).order_by("sequence")[: limit + 1])
    events = [ChainedEvent(**event) for event in audit_export.chained(links[:limit])]
    return ChainedEvents(events=events, next=events[-1].sequence if len(links) > limit else None)


@router.get("/checkpoint", response={200: OneCheckpoint, ERRORS: ErrorAnswer}, summary="Show the newest checkpoint")
def show_audit_checkpoint(request: HttpRequest) -> OneCheckpoint:
    """Strake signs one every hour: how many events there are, and the hash of the last one."""
    newest = audit_log.newest_checkpoint()
    if newest is None:
        raise NotFound("No checkpoint has been signed yet.")
    return OneCheckpoint(
        checkpoint=SignedCheckpoint(
            note=newest.note,
            key=newest.key,
            fingerprint=newest.fingerprint,
            size=newest.size,
            created_at=newest.created_at,
        )
    )
