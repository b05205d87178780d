"""What the request log writes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from uuid import UUID

OPENED, CLOSED = "opened", "closed"


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


# A named tuple's own way to make one costs three times as much.
new_entry: Callable[[tuple[UUID, str, int, int, int | None, float, str, str]], Entry] = partial(tuple.__new__, Entry)


class Rollup(NamedTuple):
    """What to add to a `RequestRollup`. `endpoint` is its id in hexadecimal, `hour` is counted from the epoch."""

    endpoint: str
    token_id: str
    hour: int
    status_class: int
    requests: int
    latency_max_ms: int
    latency_histogram: dict[int, int]
