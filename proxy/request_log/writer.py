"""Writes entries of the request log to the database, from the log's thread.

Totals and times are added to what is stored, so writers neither lock a table nor read a row before they write it. A
batch is encoded before its transaction begins, and in portions (`proxy.request_log.portions`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any
from uuid import UUID

from django.db import close_old_connections, connection, transaction
from django.db.backends.utils import CursorWrapper

from proxy.request_log import postgresql, sqlite
from proxy.request_log.entries import CLOSED, OPENED, Entry, Rollup
from proxy.request_log.histogram import bucket
from proxy.request_log.refusals import Refusal

__all__ = ["CLOSED", "OPENED", "Entry", "abort", "write", "write_refusals"]

MAX_ROWS = 500  # of refusals per statement: databases limit the number of parameters
LAST_USE_SECONDS = 60.0  # how often the last use of a token is written
MAX_TOKENS = 10_000  # whose last use is remembered
_MAX_MS = 2**31 - 1
_latency, _token_and_time = itemgetter(3), itemgetter(1, 5)
_INSERT_REFUSALS = "INSERT INTO proxy_refusalcount (endpoint_id, token_id, minute, code, count, last_at) VALUES "
_ON_CONFLICT_ADD = (
    " ON CONFLICT (endpoint_id, minute, token_id, code) "
    "DO UPDATE SET count = proxy_refusalcount.count + excluded.count, last_at = "
    "CASE WHEN excluded.last_at > proxy_refusalcount.last_at THEN excluded.last_at ELSE proxy_refusalcount.last_at END"
)


class _LastUse:
    """When the last use of each token was written, so that it is not written twice a second."""

    def __init__(self) -> None:
        self._written: dict[str, float] = {}

    def due(self, batch: list[Entry]) -> dict[str, float]:
        """Return the times that are to be written now."""
        latest: dict[str, float] = {}
        for token_id, at in map(_token_and_time, batch):
            if token_id not in latest or at > latest[token_id]:
                latest[token_id] = at
        before = self._written
        return {token: at for token, at in latest.items() if at - before.get(token, 0.0) >= LAST_USE_SECONDS}

    def wrote(self, times: dict[str, float]) -> None:
        self._written.update(times)
        if len(self._written) > MAX_TOKENS:
            self._written = times


_last_use = _LastUse()


def write(batch: list[Entry]) -> None:
    """Write entries, their rollups and the tokens' last use in one transaction. Raises Django's database errors."""
    if max(map(_latency, batch), default=0) > _MAX_MS:
        batch = [entry if entry.latency_ms <= _MAX_MS else _clamped(entry) for entry in batch]
    rollups, used = _rollups(batch), _last_use.due(batch)
    statements = postgresql if connection.vendor == "postgresql" else sqlite
    records = statements.encoded(batch)
    with _cursor() as cursor:
        # The rows that writers share come last, since whoever waits for one waits until the end of the transaction.
        statements.insert_records(cursor, records)
        if rollups:
            statements.add_rollups(cursor, rollups)
        if used:
            statements.set_last_use(cursor, used)
    _last_use.wrote(used)


def write_refusals(refusals: list[Refusal]) -> None:
    """Add to the counts of refusals in one transaction. Raises Django's database errors.

    Refusals are in no rollup, so a flood of them distorts neither the number of requests nor their latencies, and they
    do not count as use of their token.
    """
    rows = [
        (_uuid(one.endpoint_id), one.token_id, _time(one.minute * 60), one.code, one.times, _time(one.last_at))
        # In the order of the index, so that two workers do not wait for each other's rows.
        for one in sorted(refusals, key=lambda one: (one.endpoint_id, one.minute, one.token_id, one.code))
    ]
    with _cursor() as cursor:
        for start in range(0, len(rows), MAX_ROWS):
            part = rows[start : start + MAX_ROWS]
            values = ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(part))
            cursor.execute(_INSERT_REFUSALS + values + _ON_CONFLICT_ADD, [value for row in part for value in row])


# --- The connection ------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_in_use: Any = None  # psycopg's connection, while a write uses it


@contextlib.contextmanager
def _cursor() -> Iterator[CursorWrapper]:
    """A cursor in a transaction. After an error the connection is not used again.

    It may lead to a server that only reads since a failover, and would go back to the pool.
    """
    global _in_use
    close_old_connections()
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                _in_use = connection.connection
            yield cursor
    except BaseException:
        with _lock:
            if _in_use is not None:
                _in_use.close()
        raise
    finally:
        with _lock:
            _in_use = None
        close_old_connections()


def abort() -> None:
    """Break the connection of a write that gets no answer, so that it fails. Safe to call from any thread.

    PostgreSQL's own timeouts need a server that answers.
    """
    with _lock:
        if _in_use is not None and not _in_use.closed:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(_in_use.fileno())) as connected:
                connected.shutdown(socket.SHUT_RDWR)


# --- What is written -----------------------------------------------------------------------------------------------


def _clamped(entry: Entry) -> Entry:
    """Limit durations to what the columns hold, which is 24 days."""
    first_byte = None if entry.first_byte_ms is None else min(entry.first_byte_ms, _MAX_MS)
    return entry._replace(latency_ms=_MAX_MS, first_byte_ms=first_byte)


class _Total:
    """A rollup in the making."""

    __slots__ = ("count", "endpoint_id", "histogram", "longest")

    def __init__(self, endpoint_id: UUID) -> None:
        self.endpoint_id = endpoint_id
        self.count = 0
        self.longest = 0
        self.histogram: dict[int, int] = {}


def _rollups(batch: list[Entry]) -> list[Rollup]:
    totals: dict[tuple[str, int, int], _Total] = {}
    hour, hour_at, next_hour_at = 0, 0.0, 0.0  # of the last entry, which mostly is that of the next one too
    for endpoint_id, token_id, status, latency_ms, first_byte_ms, at, error, phase in batch:
        if phase == CLOSED:
            continue  # counted when it was opened
        if not hour_at <= at < next_hour_at:
            hour = int(at // 3600)
            hour_at, next_hour_at = hour * 3600.0, hour * 3600.0 + 3600.0
        key = (token_id, hour, status // 100)
        total = totals.get(key)
        if total is None:
            total = totals[key] = _Total(endpoint_id)
        total.count += 1
        # A request that failed before the provider answered has no latency.
        if first_byte_ms is not None and not error:
            histogram, milliseconds = total.histogram, bucket(latency_ms)
            histogram[milliseconds] = histogram.get(milliseconds, 0) + 1
            if latency_ms > total.longest:
                total.longest = latency_ms
    return [
        Rollup(total.endpoint_id.hex, token_id, hour, status_class, total.count, total.longest, total.histogram)
        for (token_id, hour, status_class), total in totals.items()
    ]


def _uuid(value: UUID) -> UUID | str:
    return value if connection.features.has_native_uuid_field else value.hex


def _time(at: float) -> Any:
    return connection.ops.adapt_datetimefield_value(datetime.fromtimestamp(at, UTC))
