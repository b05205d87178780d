"""Heartbeats: each server process records its master keys and its load, for rotation and for the health page."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connections
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from accounts.outage_log import OutageLog
from credentials.vault.models import ServerProcess

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # How often a process looks for a changed keyring.
BEAT_SECONDS = 5.0  # How often a process with an unchanged keyring writes its row.
EXPIRY_SECONDS = 20.0  # A process that has written nothing for this long was killed.
STOP_SECONDS = 10.0  # How long the end of a process waits for the database. Without it, the row expires.


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a process reports about itself, in addition to being alive. A web process reports the defaults.

    `key_ids` maps the id of each loaded master key to its check value in hexadecimal. `waiting`, `lag_seconds` and
    `lost` are about the request log. `in_flight` maps the ids of the busiest endpoints to their requests in flight.
    """

    primary_key_id: str = ""
    key_ids: Mapping[str, str] = field(default_factory=dict)
    waiting: int = 0
    lag_seconds: float = 0.0
    lost: int = 0
    in_flight: Mapping[str, int] = field(default_factory=dict)
    in_flight_total: int = 0


def running() -> QuerySet[ServerProcess]:
    """The server processes of both kinds that run now, ordered by kind and name."""
    return ServerProcess.objects.filter(seen_at__gt=Now() - timedelta(seconds=EXPIRY_SECONDS)).order_by("kind", "name")


def in_flight_of(endpoint_id: uuid.UUID) -> int:
    """The requests in flight of one endpoint, up to `BEAT_SECONDS` ago. An idle one in a very busy process counts 0."""
    return sum(process.in_flight.get(str(endpoint_id), 0) for process in running())


def record(process_id: uuid.UUID, kind: str, vitals: Vitals, started_at: datetime) -> None:
    """Record that this process runs, and its vitals."""
    ServerProcess.objects.update_or_create(
        pk=process_id,
        defaults={
            "kind": kind,
            "name": f"{socket.gethostname()}:{os.getpid()}"[:100],
            "version": settings.STRAKE_VERSION,
            "primary_key_id": vitals.primary_key_id,
            "key_ids": dict(vitals.key_ids),
            "waiting": vitals.waiting,
            "lag_seconds": vitals.lag_seconds,
            "lost": vitals.lost,
            "in_flight": dict(vitals.in_flight),
            "in_flight_total": vitals.in_flight_total,
            "started_at": started_at,
            "seen_at": Now(),
        },
    )


def remove(process_id: uuid.UUID) -> None:
    """Delete the row of a process that ends, and the rows of processes that were killed more than a day ago."""
    ServerProcess.objects.filter(pk=process_id).delete()
    ServerProcess.objects.filter(seen_at__lt=Now() - timedelta(days=1)).delete()


class Heartbeat:
    """Records one server process of `kind`, from a thread, for as long as it runs.

    The thread calls `measure` every `POLL_SECONDS`. It writes the row if the master keys have changed, and otherwise
    every `BEAT_SECONDS`. Call `start` in the process that serves: a thread does not survive a fork.
    """

    def __init__(self, kind: str, measure: Callable[[], Vitals]) -> None:
        self._kind = kind
        self._measure = measure
        self._recorded: Vitals | None = None
        self._recorded_at = 0.0
        self._outage = OutageLog(logger, "heartbeat_failed", "heartbeat_back")
        self._has_beaten = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Return after the first heartbeat, so that rotation knows about a process before it serves requests.

        If the database does not answer, return after the first attempt. The thread tries again.
        """
        self._id = uuid.uuid4()
        self._started_at = timezone.now()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()
        self._has_beaten.wait()

    def stop(self) -> None:
        """End the heartbeat and delete the row. Blocks for `STOP_SECONDS` at most."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        self._try(self._beat)
        self._has_beaten.set()
        while not self._stopping.wait(POLL_SECONDS):
            self._try(self._beat)
        self._try(lambda: remove(self._id))

    def _beat(self) -> None:
        vitals = self._measure()
        if not self._is_due(vitals):
            return
        record(self._id, self._kind, vitals, self._started_at)
        self._recorded, self._recorded_at = vitals, time.monotonic()

    def _is_due(self, vitals: Vitals) -> bool:
        recorded = self._recorded
        if recorded is None or time.monotonic() - self._recorded_at >= BEAT_SECONDS:
            return True
        return (recorded.primary_key_id, recorded.key_ids) != (vitals.primary_key_id, vitals.key_ids)

    def _try(self, work: Callable[[], None]) -> None:
        """Do one piece of work. No error ends the heartbeat, since an outage of the database passes."""
        try:
            work()
            self._outage.works()
        except Exception as error:  # noqa: BLE001  (an error that ended this thread would end the heartbeat)
            self._outage.failed(error)
        finally:
            connections.close_all()  # Not kept between two beats, since they are few.
