"""The audit log in the management API: a person's own events with their links of the hash chain, and checkpoints."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Field, Query, Router, Schema

from accounts import audit_export, audit_log
from accounts.errors import NotFound
from accounts.models import AuditEvent, AuditLink
from credentials.api.access import actor_of
from credentials.api.document import errors
from credentials.api.schemas import NO_CONTROLS, ErrorAnswer

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
    details: dict[str, Any] = Field(
        description="What changed. acting_id and acting_label are those of the access token or session that acted."
    )
    nonce: str
    content_hash: str
    previous_hash: str
    hash: str


class ChainedEvents(Schema):
    events: list[ChainedEvent]
    next: int | None = Field(
        description="Pass it as since, or with newest as before, for further events. Null if there are none now."
    )


class SignedCheckpoint(Schema):
    note: str = Field(description="The signed note. Keep it to prove later that nothing has been changed.")
    key: str = Field(description="The public key, as verify_audit takes it.")
    fingerprint: str
    size: int
    created_at: datetime


class OneCheckpoint(Schema):
    checkpoint: SignedCheckpoint


@router.get("", response={200: ChainedEvents, errors(422): ErrorAnswer}, summary="List audit events")
def list_audit_events(
    request: HttpRequest,
    since: Annotated[int, Query(ge=0, le=2**53, description="Only events after this number.")] = 0,
    before: Annotated[int | None, Query(ge=0, le=2**53, description="Only events before this number.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 100,
    newest: Annotated[bool, Query(description="Newest first. By default oldest first.")] = False,
    action: Annotated[str, Query(max_length=64, pattern=NO_CONTROLS, examples=["token.issued"])] = "",
    text: Annotated[
        str, Query(max_length=100, pattern=NO_CONTROLS, description="Part of subject, actor or IP address.")
    ] = "",
) -> ChainedEvents:
    """Your own events. The numbers have gaps, since the hash chain runs over everybody's events."""
    own = AuditEvent.objects.visible_to(actor_of(request)).matching(text=text, action=action).values("pk")
    found = AuditLink.objects.filter(sequence__gt=since, event_id__in=own)
    if before is not None:
        found = found.filter(sequence__lt=before)
    links = list(found.order_by("-sequence" if newest else "sequence")[: limit + 1])
    events = [ChainedEvent(**event) for event in audit_export.chained(links[:limit])]
    return ChainedEvents(events=events, next=events[-1].sequence if len(links) > limit else None)


@router.get("/checkpoint", response={200: OneCheckpoint, errors(404): ErrorAnswer}, summary="Show the checkpoint")
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
