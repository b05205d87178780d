"""The statements of the request log on PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from struct import Struct
from uuid import UUID

from django.db import connection
from django.db.backends.utils import CursorWrapper

from proxy.request_log.encoding import json_array
from proxy.request_log.entries import Entry, Rollup
from proxy.request_log.portions import portions

# Binary, so that no value needs escaping and the server parses no text. Each value follows its length, or -1 for NULL.
_COPY = (
    "COPY proxy_requestrecord (endpoint_id, token_id, status, error, phase, latency_ms, first_byte_ms, at) "
    "FROM STDIN (FORMAT BINARY)"
)
_HEADER, _END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
_COLUMNS, _LENGTH, _STATUS = Struct("!h"), Struct("!i"), Struct("!ih")
_DURATIONS, _DURATION_AND_NULL = Struct("!iiiiiq"), Struct("!iiiiq")
_EPOCH_SECONDS = 946_684_800  # PostgreSQL counts microseconds from 2000-01-01

# The order prevents deadlocks: of two writers of the same rows, one waits for the other at the first of them.
_ADD_ROLLUPS = """
INSERT INTO proxy_rollup AS stored
    (endpoint_id, token_id, hour, status_class, count, latency_max_ms, latency_histogram)
SELECT (value->>0)::uuid, value->>1, to_timestamp((value->>2)::bigint * 3600), (value->>3)::smallint,
    (value->>4)::integer, (value->>5)::integer, value->6
FROM jsonb_array_elements(%s::jsonb) ORDER BY 1, 3, 2, 4
ON CONFLICT (endpoint_id, hour, token_id, status_class) DO UPDATE SET
    count = stored.count + excluded.count,
    latency_max_ms = greatest(stored.latency_max_ms, excluded.latency_max_ms),
    latency_histogram = (
        SELECT coalesce(jsonb_object_agg(key, total), '{}') FROM (
            SELECT key, sum(value::bigint) AS total FROM (
                SELECT * FROM jsonb_each_text(stored.latency_histogram)
                UNION ALL SELECT * FROM jsonb_each_text(excluded.latency_histogram)
            ) AS both_histograms GROUP BY key
        ) AS totals
    )
"""
_SET_LAST_USE = """
WITH used AS (SELECT * FROM unnest(%s::text[], %s::float8[]) AS used (id, at)),
    locked AS (
        SELECT token.id FROM credentials_bearertoken AS token JOIN used USING (id)
        WHERE last_used_at IS NULL OR last_used_at < to_timestamp(at) ORDER BY id FOR NO KEY UPDATE OF token
    )
UPDATE credentials_bearertoken AS token SET last_used_at = greatest(last_used_at, to_timestamp(at))
FROM used WHERE token.id = used.id AND token.id IN (SELECT id FROM locked)
"""


def insert_records(cursor: CursorWrapper, records: bytes) -> None:
    with connection.wrap_database_errors, cursor.copy(_COPY) as copy:
        copy.write(records)


def add_rollups(cursor: CursorWrapper, rollups: Sequence[Rollup]) -> None:
    cursor.execute(_ADD_ROLLUPS, [json_array(rollups)])


def set_last_use(cursor: CursorWrapper, times: Mapping[str, float]) -> None:
    cursor.execute(_SET_LAST_USE, [list(times), list(times.values())])


def encoded(batch: Sequence[Entry]) -> bytes:
    """Return rows for COPY. What many entries of a batch share is encoded once."""
    shared: dict[tuple[UUID, str, int, str, str], bytes] = {}
    parts = [_HEADER]
    for endpoint_id, token_id, status, latency, first_byte, at, error, phase in chain.from_iterable(portions(batch)):
        key = (endpoint_id, token_id, status, error, phase)
        if (start := shared.get(key)) is None:
            values = (endpoint_id.bytes, token_id.encode(), None, error.encode(), phase.encode())
            start = shared[key] = _COLUMNS.pack(8) + b"".join(
                _STATUS.pack(2, status) if value is None else _LENGTH.pack(len(value)) + value for value in values
            )
        microseconds = round((at - _EPOCH_SECONDS) * 1e6)
        if first_byte is None:
            parts += start, _DURATION_AND_NULL.pack(4, latency, -1, 8, microseconds)
        else:
            parts += start, _DURATIONS.pack(4, latency, 4, first_byte, 8, microseconds)
    parts.append(_END)
    return b"".join(parts)
