"""Telling people what watchers have seen, each thing once, by the channels that they have chosen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from accounts import outbox, tokens
from accounts.metrics import Counter
from accounts.models import Notice, User, Webhook
from accounts.notices.choices import EVERYTHING, choices_of
from accounts.notices.kinds import NoticeKind
from accounts.notices.mail import NOTICE
from accounts.sign_in.mail import delivery

NOTICES = Counter("strake_notices_total", "Notices to people, by their kind.", ["kind"])
WEBHOOK = "webhook"  # the kind of messages to webhooks, which credentials.webhooks registers
_BATCH = 500


class Sighting(NamedTuple):
    """Something that a watcher sees now. `subject` tells occurrences apart. `facts` are for the person, as JSON."""

    person_id: UUID
    kind: NoticeKind
    subject: str
    facts: dict[str, Any]


def publish(sightings: Iterable[Sighting], now: datetime) -> int:
    """Queue what is new for each person: one email for each kind, and one message to their webhook for each sighting.

    Call it in a transaction, in one process at a time. Returns the number of new sightings.
    """
    new = _new(list(sightings), now)
    people = User.objects.in_bulk({sighting.person_id for sighting in new})
    wanted = choices_of(list(people))
    hooked = set(
        Webhook.objects.filter(person_id__in=list(people), disabled_at=None).values_list("person_id", flat=True)
    )
    mails: defaultdict[tuple[UUID, str], list[dict[str, Any]]] = defaultdict(list)
    messages = []
    for person_id, kind, _, facts in new:
        NOTICES.add(kind.name)
        person = people.get(person_id)
        if person is None or person.suspended_at is not None:
            continue
        choices = wanted.get(person_id, EVERYTHING)
        if kind.name in choices.mail and delivery() != "none":
            mails[person_id, kind.name].append(facts)
        if kind.name in choices.webhook and person_id in hooked:
            messages.append((person.email, webhook_details(kind.name, facts, now)))
    outbox.submit_all(
        NOTICE, ((people[pk].email, {"notice": kind, "items": items}) for (pk, kind), items in mails.items())
    )
    outbox.submit_all(outbox.registered(WEBHOOK), messages)
    return len(new)


def webhook_details(kind: str, facts: dict[str, Any], now: datetime) -> dict[str, Any]:
    """The content of a message to a webhook. Its id is the same for every attempt."""
    return {
        "message": tokens.random_id("msg_"),
        "notice": kind,
        "at": now.isoformat(timespec="seconds"),
        "facts": facts,
    }


def _new(sightings: list[Sighting], now: datetime) -> list[Sighting]:
    """Those that the person was not told of, or that were absent for the quiet time. Notes all of them as seen."""
    found: list[Sighting] = []
    for start in range(0, len(sightings), _BATCH):
        batch = {(one.person_id, one.kind.name, one.subject): one for one in sightings[start : start + _BATCH]}
        people = {person_id for person_id, _, _ in batch}
        known = {
            (row.person_id, row.kind, row.subject): row
            for row in Notice.objects.filter(person_id__in=people, subject__in={one.subject for one in batch.values()})
        }
        rows = []
        for key, sighting in batch.items():
            before = known.get(key)
            if is_new := before is None or before.seen_at < now - sighting.kind.quiet:
                found.append(sighting)
            first_at = now if before is None or is_new else before.first_at
            person_id, kind, subject = key
            rows.append(Notice(person_id=person_id, kind=kind, subject=subject, first_at=first_at, seen_at=now))
        Notice.objects.bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["person", "kind", "subject"],
            update_fields=["first_at", "seen_at"],
        )
    return found
