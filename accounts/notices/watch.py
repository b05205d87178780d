"""Watchers: every minute, one process of all looks for what is new since the last look.

A watcher's row holds how far it has looked, and the lease of the process that looks now. What was seen and how far was
looked are stored in one transaction, so a process that dies loses nothing, and nothing is told twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import DatabaseError, transaction

from accounts import outbox, retention
from accounts.models import NoticeWatch
from accounts.notices.publishing import Sighting, publish
from accounts.outbox import BACKGROUND, Sender

logger = logging.getLogger(__name__)

EVERY_SECONDS = 60.0
POLL_SECONDS = 15.0  # how often a process looks whether it is its turn
LEASE = timedelta(minutes=5)
# After a longer pause, what happened before is not told any more.
MAX_GAP = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Watcher:
    """Looks for what happened after `since`, up to `until`, both by the database's clock.

    Each look returns again what still goes on. It must cost little if nothing is new, however much is stored.
    """

    name: str
    look: Callable[[datetime, datetime], Iterable[Sighting]]


_watchers: dict[str, Watcher] = {}


def register(watcher: Watcher) -> None:
    """Let this process look. Call it when the app is ready."""
    _watchers[watcher.name] = watcher


def look_if_due() -> None:
    """Let each watcher look whose turn it is. Logs which could not, and tries that again after its lease."""
    for watcher in _watchers.values():
        try:
            _look(watcher)
        except DatabaseError as error:
            logger.warning("notices_failed watcher=%s kind=%s", watcher.name, type(error).__name__)


def _look(watcher: Watcher) -> None:
    now = retention.database_now()
    row = NoticeWatch.objects.filter(name=watcher.name).first()
    if row is None:
        NoticeWatch.objects.get_or_create(name=watcher.name, defaults={"looked_until": now, "due_at": now})
        return  # nothing from before is told
    lease = now + LEASE
    mine = NoticeWatch.objects.filter(name=watcher.name, due_at=row.due_at)
    if row.due_at > now or not mine.update(due_at=lease):
        return
    sightings = list(watcher.look(max(row.looked_until, now - MAX_GAP), now))
    with transaction.atomic():
        next_due = now + timedelta(seconds=EVERY_SECONDS)
        if NoticeWatch.objects.filter(name=watcher.name, due_at=lease).update(looked_until=now, due_at=next_due):
            publish(sightings, now)


# --- The thread ----------------------------------------------------------------------------------------------------


class _Background:
    """The work of the thread: it looks, and sends to webhooks. Between two messages it looks again if it is time."""

    def __init__(self) -> None:
        self._next = 0.0

    def work(self) -> None:
        self._look()
        while outbox.run_one(BACKGROUND):
            self._look()

    def _look(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + POLL_SECONDS
            look_if_due()


_sender = Sender(_Background().work, "strake-notices")


def start() -> None:
    """Start the thread of this process. A web process calls this after the fork."""
    _sender.start()
