"""The audit log as lines of JSON, each with its link of the hash chain. `accounts.verify_audit` reads them.

A line has the fields of `audit_chain.CONTENT_FIELDS` and `sequence`, `at`, `content_hash`, `previous_hash` and `hash`.
If the content was erased, it has `"erased": true` in place of the content. The line of the last event that a checkpoint
counts has the signed note as `checkpoint`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from django.db.models import Exists, OuterRef

from accounts import audit_chain
from accounts.models import AuditCheckpoint, AuditEvent, AuditLink

BATCH = 500


def events_after(sequence: int) -> Iterator[dict[str, Any]]:
    """Yield the events after this one that are committed by now, as the dictionaries that become lines."""
    while links := list(AuditLink.objects.filter(sequence__gt=sequence).order_by("sequence")[:BATCH]):
        notes = dict(
            AuditCheckpoint.objects.filter(size__gt=sequence, size__lte=links[-1].sequence)
            .order_by("id")
            .values_list("size", "note")
        )
        for event in chained(links):
            yield event | ({"checkpoint": notes[event["sequence"]]} if event["sequence"] in notes else {})
        sequence = links[-1].sequence


def chained(links: Iterable[AuditLink]) -> Iterator[dict[str, Any]]:
    """Yield the events of these links."""
    links = list(links)
    events = AuditEvent.objects.in_bulk([link.event_id for link in links])
    before = [link.sequence - 1 for link in links]
    hashes = {0: audit_chain.GENESIS} | dict(
        AuditLink.objects.filter(sequence__in=before).values_list("sequence", "hash")
    )
    for link in links:
        event = events.get(link.event_id)
        yield {
            "sequence": link.sequence,
            "at": audit_chain.timestamp(link.at),
            **({"erased": True} if event is None else event.content()),
            "content_hash": link.content_hash,
            # Without the link before, nothing continues it, and verification says so.
            "previous_hash": hashes.get(link.sequence - 1, ""),
            "hash": link.hash,
        }


def line(event: dict[str, Any]) -> str:
    """Return an event as one line of ASCII, with its line break."""
    return json.dumps(event, separators=(",", ":")) + "\n"


def unchained() -> list[int]:
    """The ids of up to ten events without a link, which only somebody who writes to the database can insert."""
    # Not `exclude(pk__in=…)`: beyond its work_mem, PostgreSQL would compare every event with every link.
    missing = AuditEvent.objects.filter(~Exists(AuditLink.objects.filter(event_id=OuterRef("pk"))))
    return list(missing.order_by("pk").values_list("pk", flat=True)[:10])
