"""Writes entries of the request log to the database, from the log's thread.

A batch is few statements with many values. After each statement the thread may wait for the interpreter, and meanwhile
it holds SQLite's write lock.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db import close_old_connections, connection, transaction
from django.db.backends.utils import CursorWrapper

from credentials.models import BearerToken
from proxy.models import LATENCY_BOUNDS_MS, RequestRollup
from proxy.request_log.refusals import Refusal

MAX_ROWS = 500  # per statement: databases limit the number of parameters
_MAX_MS = 2**31 - 1
_ADVISORY_LOCK = int.from_bytes(b"strake-j")
_INSERT_RECORDS = (
    "INSERT INTO proxy_requestrecord "
    "(endpoint_id, token_id, status, latency_ms, first_byte_ms, at, error, phase) VALUES "
)
_INSERT_ROLLUPS = "INSERT INTO proxy_requestrollup (endpoint_id, hour, status_class, count, latency_histogram) VALUES "
_ON_CONFLICT_REPLACE = (
    " ON CONFLICT (endpoint_id, hour, status_class) "
    "DO UPDATE SET count = excluded.count, latency_histogram = excluded.latency_histogram"
)
_INSERT_REFUSALS = "INSERT INTO proxy_refusalcount (endpoint_id, token_id, minute, code, count, last_at) VALUES "
_ON_CONFLICT_ADD = (
    " ON CONFLICT (endpoint_id, minute, token_id, code) "
    "DO UPDATE SET count = proxy_refusalcount.count + excluded.count, last_at = "
    "CASE WHEN excluded.last_at > proxy_refusalcount.last_at THEN excluded.last_at ELSE proxy_refusalcount.last_at END"
)
OPENED, CLOSED = "opened", "closed"

RollupKey = tuple[UUID, int, int]  # endpoint, hour since the epoch, status class


class Entry(NamedTuple):
    """One forwarded request, or one that failed on the way to the provider.

    Durations are in milliseconds. `at` is when it arrived, in seconds since the epoch. `error` is Strake's own error
    code, or "" if the provider answered. A WebSocket connection has two entries: one with the phase `OPENED` and the
    duration of the handshake, one with the phase `CLOSED`, the whole duration, and the time of its end as `at`.
    """

    endpoint_id: UUID
    token_id: str
    status: int
    latency_ms: int
    first_byte_ms: int | None
    at: float
    error: str = ""
    phase: str = ""


def write(batch: list[Entry]) -> None:
    """Write entries, their rollups and the tokens' last use in one transaction. Raises Django's database errors."""
    records = [_record(entry) for entry in batch]
    histograms = _histograms(batch)
    tokens = _last_used(batch)
    close_old_connections()
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                # Rollups are read before they are written, so workers take turns, as they do on SQLite.
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
            _insert(cursor, _INSERT_RECORDS, records)
            _add_to_rollups(cursor, histograms)
            BearerToken.objects.bulk_update(tokens, ["last_used_at"], batch_size=MAX_ROWS)
    finally:
        close_old_connections()


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
    close_old_connections()
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            _insert(cursor, _INSERT_REFUSALS, rows, _ON_CONFLICT_ADD)
    finally:
        close_old_connections()


def _record(entry: Entry) -> tuple[Any, ...]:
    first_byte = None if entry.first_byte_ms is None else min(entry.first_byte_ms, _MAX_MS)
    return (
        _uuid(entry.endpoint_id),
        entry.token_id,
        entry.status,
        min(entry.latency_ms, _MAX_MS),
        first_byte,
        _time(entry.at),
        entry.error,
        entry.phase,
    )


def _histograms(batch: list[Entry]) -> dict[RollupKey, list[int]]:
    histograms: dict[RollupKey, list[int]] = {}
    for entry in batch:
        if entry.phase == CLOSED:
            continue  # counted when it was opened, and its duration is not a latency
        key = (entry.endpoint_id, int(entry.at // 3600), entry.status // 100)
        histogram = histograms.setdefault(key, [0] * (len(LATENCY_BOUNDS_MS) + 1))
        histogram[bisect_right(LATENCY_BOUNDS_MS, entry.latency_ms)] += 1
    return histograms


def _last_used(batch: list[Entry]) -> list[BearerToken]:
    latest: dict[str, float] = {}
    for entry in batch:
        latest[entry.token_id] = max(entry.at, latest.get(entry.token_id, 0.0))
    return [BearerToken(pk=token_id, last_used_at=datetime.fromtimestamp(at, UTC)) for token_id, at in latest.items()]


def _add_to_rollups(cursor: CursorWrapper, histograms: dict[RollupKey, list[int]]) -> None:
    stored: dict[RollupKey, list[int]] = {}
    rollups = RequestRollup.objects.filter(
        endpoint_id__in={endpoint_id for endpoint_id, _, _ in histograms},
        hour__in={datetime.fromtimestamp(hour * 3600, UTC) for _, hour, _ in histograms},
    )
    for endpoint_id, hour, status_class, histogram in rollups.values_list(
        "endpoint_id", "hour", "status_class", "latency_histogram"
    ):
        stored[endpoint_id, int(hour.timestamp() // 3600), status_class] = histogram
    rows = []
    for key, histogram in histograms.items():
        endpoint_id, hours, status_class = key
        before = stored.get(key, [0] * len(histogram))
        total = [old + new for old, new in zip(before, histogram, strict=True)]
        rows.append((_uuid(endpoint_id), _time(hours * 3600), status_class, sum(total), json.dumps(total)))
    _insert(cursor, _INSERT_ROLLUPS, rows, _ON_CONFLICT_REPLACE)


def _insert(cursor: CursorWrapper, head: str, rows: list[tuple[Any, ...]], tail: str = "") -> None:
    """Insert rows, up to `MAX_ROWS` per statement. The ORM took more processor time for this than forwarding does."""
    for start in range(0, len(rows), MAX_ROWS):
        part = rows[start : start + MAX_ROWS]
        row = f"({', '.join(['%s'] * len(part[0]))})"
        cursor.execute(head + ", ".join([row] * len(part)) + tail, [value for values in part for value in values])


def _uuid(value: UUID) -> UUID | str:
    return value if connection.features.has_native_uuid_field else value.hex


def _time(at: float) -> Any:
    return connection.ops.adapt_datetimefield_value(datetime.fromtimestamp(at, UTC))
