"""The statements of the request log on SQLite. Each reads its rows from JSON, since SQLite limits parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from django.db.backends.utils import CursorWrapper

from proxy.request_log.encoding import json_array
from proxy.request_log.entries import Entry, Rollup

_INSERT_RECORDS = """
INSERT INTO proxy_requestrecord (endpoint_id, token_id, status, error, phase, latency_ms, first_byte_ms, at)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
    json_extract(value, '$[6]'), json_extract(value, '$[7]')
FROM json_each(%s)
"""
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


def insert_records(cursor: CursorWrapper, batch: Sequence[Entry]) -> None:
    rows = [
        (one.endpoint_id.hex, one.token_id, one.status, one.error, one.phase, one.latency_ms, one.first_byte_ms, at)
        for one, at in ((one, _text(one.at)) for one in batch)
    ]
    cursor.execute(_INSERT_RECORDS, [json_array(rows)])


def add_rollups(cursor: CursorWrapper, rollups: Sequence[Rollup]) -> None:
    cursor.execute(_ADD_ROLLUPS, [json_array(rollups)])


def set_last_use(cursor: CursorWrapper, times: Mapping[str, float]) -> None:
    rows = [(text, token_id, text) for token_id, text in ((token_id, _text(at)) for token_id, at in times.items())]
    cursor.executemany(_SET_LAST_USE, rows)


def _text(at: float) -> str:
    """A time as Django stores it: UTC, without its name."""
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat(" ")
