"""Removes rows that are past their retention time, for `manage.py prune` and for a thread of the web half.

All rows expire by the database's clock. If it were a month ahead, pruning would delete every record, so it is refused
while that clock is implausible.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol

from django.conf import settings
from django.core.cache import cache
from django.db import ProgrammingError, connections
from django.db.models import QuerySet

from accounts import retention
from proxy.models import OldRollup, RefusalCount, RequestRecord, RequestRollup, UploadCapability
from proxy.request_log import partitions

logger = logging.getLogger(__name__)

EVERY_SECONDS = 3600
POLL_SECONDS = 300.0  # how often a process looks whether it is its turn
FIRST_SECONDS = 10.0
MAX_DIFFERENCE = timedelta(days=2)  # more than a day, since a daily timer may be late
DOUBT = timedelta(days=7)
_TURN, _CLOCK, _DONE = "strake.pruning.turn", "strake.pruning.clock", "strake.pruning.done"


class ImplausibleClock(Exception):
    """The database's clock may be wrong. The message says why, and nothing has been removed."""


class Removal(Protocol):
    """Removes the outdated rows of one kind, or counts them."""

    def __call__(self, *, dry_run: bool) -> int: ...


def removals(now: datetime) -> Mapping[str, Removal]:
    """What is to be removed at `now`, by the name that `manage.py prune` prints."""
    retained_since = now - timedelta(days=settings.STRAKE_RETENTION_DAYS)
    totals_since = now - timedelta(days=retention.audit_days())
    rows = {
        "counts of refusals": RefusalCount.objects.filter(minute__lt=retained_since),
        "hourly totals": RequestRollup.objects.filter(hour__lt=totals_since),
        "hourly totals of earlier versions": OldRollup.objects.filter(hour__lt=totals_since),
        "upload URLs": UploadCapability.objects.filter(expires_at__lte=now),
        **retention.outdated(now),
    }
    return {
        "days of request records": partial(_remove_days, retained_since),
        "request records": partial(_remove_records, retained_since),
        **{name: partial(_remove, found) for name, found in rows.items()},
    }


def _remove(rows: QuerySet[Any], *, dry_run: bool) -> int:
    return rows.count() if dry_run else retention.prune(rows)


def _remove_days(keep_since: datetime, *, dry_run: bool) -> int:
    return 0 if dry_run else partitions.prune_days(keep_since)


def _remove_records(keep_since: datetime, *, dry_run: bool) -> int:
    if dry_run:
        return RequestRecord.objects.filter(at__lt=keep_since).count()
    return partitions.prune_records(keep_since)


# --- The clock -----------------------------------------------------------------------------------------------------


def check_clock(now: datetime, *, trust: bool = False) -> None:
    """Raise `ImplausibleClock` if `now`, read from the database's clock, may be wrong. `trust` ends the doubt.

    There is doubt if the clock has moved by two days since the last look, which is an hour ago while Strake runs, or if
    requests are recorded whose times are two days behind it: proxy processes use the clocks of their hosts. Doubt ends
    a week after the last reason for it, since a Strake that was off or that nobody uses must forget too.
    """
    newest = _newest_request(now)
    is_ahead = newest is not None and now - newest > MAX_DIFFERENCE
    before = cache.get(_CLOCK)
    if before is None:
        reason = "the newest request was more than two days ago" if is_ahead else ""
        doubted_until = 0.0
    else:
        looked_at, newest_then, doubted_until = before
        reason = ""
        if abs(now.timestamp() - looked_at) > MAX_DIFFERENCE.total_seconds():
            reason = "it has jumped, or Strake did not run"
        elif is_ahead and newest is not None and newest.timestamp() > newest_then:
            reason = "requests are recorded that are more than two days older"
    if reason:
        doubted_until = (now + DOUBT).timestamp()
    if trust:
        doubted_until = 0.0
    cache.set(_CLOCK, [now.timestamp(), newest.timestamp() if newest else 0.0, doubted_until], None)
    if now.timestamp() < doubted_until:
        raise ImplausibleClock(
            f"The database's clock says {now:%Y-%m-%d %H:%M} UTC, and {reason or 'was in doubt lately'}. If it is "
            "wrong, rows would be removed that have not expired. Nothing has been removed."
        )


def _newest_request(now: datetime) -> datetime | None:
    """The newest hour or minute with a request, but for those of hosts whose clocks are ahead."""
    until = now + timedelta(hours=1)
    found = [
        model.objects.filter(**{f"{time}__lte": until}).order_by(f"-{time}").values_list(time, flat=True).first()
        for model, time in ((RequestRollup, "hour"), (OldRollup, "hour"), (RefusalCount, "minute"))
    ]
    return max(filter(None, found), default=None)


# --- The thread ----------------------------------------------------------------------------------------------------


def start() -> None:
    """Prune every hour from now on, in one web process of all. A process may end at any time."""
    threading.Thread(target=_run, name="pruning", daemon=True).start()


def _run() -> None:
    pause = threading.Event()
    seconds = FIRST_SECONDS
    while not pause.wait(seconds):
        seconds = POLL_SECONDS
        try:
            run_in_turn()
        except Exception as error:  # noqa: BLE001  (an outage passes, and the message may hold the database's address)
            logger.warning("pruning_failed kind=%s", type(error).__name__)
        finally:
            connections.close_all()


def run_in_turn() -> None:
    """Prune if no process did in the last hour."""
    if not cache.add(_TURN, 1, EVERY_SECONDS):
        return
    now = retention.database_now()
    try:
        check_clock(now)
    except ImplausibleClock as error:
        logger.warning("pruning_refused %s", error)
        return
    for name, remove in removals(now).items():
        try:
            remove(dry_run=False)
        except ProgrammingError:
            # With database roles, only the owner may remove audit events. `manage.py prune` does.
            logger.debug("pruning_not_permitted name=%s", name)
    note_end(now)


def note_end(now: datetime) -> None:
    """Remember that everything was pruned at `now`, for the metrics."""
    cache.set(_DONE, now.timestamp(), None)


def last_end() -> float | None:
    """When everything was pruned last, in seconds since the epoch. None if that is not known."""
    found: float | None = cache.get(_DONE)
    return found
