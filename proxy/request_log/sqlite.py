"""The statements of the request log on SQLite. Each reads its rows from JSON, since SQLite limits parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from django.db.backends.utils import CursorWrapper

from proxy.request_log.encoding import json_array
from proxy.request_log.entries import Entry, Rollup
from proxy.request_log.portions import portions

# Records of one second that differ only in their times come as one group, with each record as text of fixed widths.
# SQLite reads that three times faster than JSON.
_INSERT_RECORDS = """
WITH records AS MATERIALIZED (
    SELECT json_extract(value, '$[0]') AS endpoint_id, json_extract(value, '$[1]') AS token_id,
        json_extract(value, '$[2]') AS status, json_extract(value, '$[3]') AS error,
        json_extract(value, '$[4]') AS phase, json_extract(value, '$[5]') AS second,
        json_extract(value, '$[6]') AS times
    FROM json_each(%s)
)
INSERT INTO proxy_requestrecord (endpoint_id, token_id, status, error, phase, latency_ms, first_byte_ms, at)
SELECT endpoint_id, token_id, status, error, phase,
    substr(value, 1, 10) + 0, nullif(substr(value, 11, 10) + 0, -1), second || substr(value, 21)
FROM records, json_each(records.times)
"""
_RECORD = "%10d%10d.%06d"  # an f-string takes longer
_ADD_ROLLUPS = """
INSERT INTO proxy_rollup (endpoint_id, token_id, hour, status_class, count, latency_max_ms, latency_histogram)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
    datetime(json_extract(value, '$[2]') * 3600, 'unixepoch'), json_extract(value, '$[3]'),
    json_extract(value, '$[4]'), json_extract(value, '$[5]'), json_extract(value, '$[6]')
FROM json_each(%s) WHERE true
ON CONFLICT (endpoint_id, hour, token_id, status_class) DO UPDATE SET
    count = count + excluded.count,
    latency_max_ms = max(latency_max_ms, excluded.latency_max_ms),
    latency_histogram = (
        SELECT json_group_object(key, total) FROM (
            SELECT key, sum(value) AS total FROM (
                SELECT key, value FROM json_each(proxy_rollup.latency_histogram)
                UNION ALL SELECT key, value FROM json_each(excluded.latency_histogram)
            ) GROUP BY key
        )
    )
"""
_SET_LAST_USE = """
UPDATE credentials_bearertoken SET last_used_at = %s
WHERE id = %s AND (last_used_at IS NULL OR last_used_at < %s)
"""


def encoded(batch: Sequence[Entry]) -> list[str]:
    """Return the rows of a batch as JSON, one text for each portion."""
    return [_encoded(portion) for portion in portions(batch)]


def insert_records(cursor: CursorWrapper, records: Sequence[str]) -> None:
    for (portion,) in portions(records, 1):
        cursor.execute(_INSERT_RECORDS, [portion])


def _encoded(batch: Sequence[Entry]) -> str:
    groups: dict[tuple[str, int, str, str, int], tuple[UUID, list[str]]] = {}
    for endpoint_id, token_id, status, latency_ms, first_byte_ms, at, error, phase in batch:
        second, microseconds = divmod(round(at * 1_000_000), 1_000_000)
        group = groups.get((token_id, status, error, phase, second))
        if group is None:
            group = groups[token_id, status, error, phase, second] = (endpoint_id, [])
        first = -1 if first_byte_ms is None else first_byte_ms
        group[1].append(_RECORD % (latency_ms, first, microseconds))
    return json_array(
        [
            (endpoint_id.hex, token_id, status, error, phase, _text(second), times)
            for (token_id, status, error, phase, second), (endpoint_id, times) in groups.items()
        ]
    )


def add_rollups(cursor: CursorWrapper, rollups: Sequence[Rollup]) -> None:
    cursor.execute(_ADD_ROLLUPS, [json_array(rollups)])


def set_last_use(cursor: CursorWrapper, times: Mapping[str, float]) -> None:
    rows = [(text, token_id, text) for token_id, text in ((token_id, _text(at)) for token_id, at in times.items())]
    cursor.executemany(_SET_LAST_USE, rows)


def _text(at: float) -> str:
    """A time as Django stores it: UTC, without its name."""
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat(" ")
