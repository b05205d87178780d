"""Counts requests with a known token that were refused, by token, minute and error code.

A refused request has no record of its own: whoever holds a revoked token could otherwise fill the disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

MAX_KEYS = 20_000
MAX_KEYS_OF_ENDPOINT = 100
# The others of an endpoint's keys are for refusals that are counted without their token.
MAX_TOKEN_KEYS_OF_ENDPOINT = 50
NO_TOKEN = ""

_Key = tuple[UUID, str, int, str]  # endpoint, token, minute since the epoch, code


class Refusal(NamedTuple):
    """Requests refused in one minute. `minute` is counted from the epoch, `last_at` in seconds."""

    endpoint_id: UUID
    token_id: str
    minute: int
    code: str
    times: int
    last_at: float


class RefusalCounts:
    """Refusals that are not in the database yet. Its memory is bounded, whatever is refused.

    One endpoint has at most `MAX_TOKEN_KEYS_OF_ENDPOINT` different keys of tokens and codes in a minute. Further ones
    are counted by code, without their token. Beyond `MAX_KEYS_OF_ENDPOINT`, or `MAX_KEYS` in all, which takes many
    minutes without a database, refusals are only counted in `lost`.
    """

    def __init__(self) -> None:
        self.lost = 0
        self.waiting = 0  # the refusals that `take` has not returned
        self._counts: dict[_Key, list[float]] = {}  # the count that is not written, and the time of the last
        self._keys_of: dict[UUID, int] = {}

    def __len__(self) -> int:
        """The number of keys, including those of the current minute that have been written."""
        return len(self._counts)

    def add(self, endpoint_id: UUID, token_id: str, code: str, at: float, count: int = 1) -> None:
        """Count refusals at `at`, in seconds since the epoch."""
        key = (endpoint_id, token_id, int(at // 60), code)
        counted = self._counts.get(key)
        if counted is None:
            counted = self._new(key)
            if counted is None:
                self.lost += count
                return
        self.waiting += count
        counted[0] += count
        counted[1] = max(at, counted[1])

    def take(self, now: float) -> list[Refusal]:
        """Return what has been counted since the last call, for the database to add to its counts.

        The keys of the current minute stay, so that one minute cannot have more keys than the limits say.
        """
        self.waiting = 0
        taken, minute = [], int(now // 60)
        for key, counted in list(self._counts.items()):
            if counted[0]:
                taken.append(Refusal(*key, int(counted[0]), counted[1]))
                counted[0] = 0
            if key[2] < minute:
                self._forget(key)
        return taken

    def put_back(self, refusals: Iterable[Refusal]) -> None:
        """Count again what `take` returned, since it could not be written."""
        for refusal in refusals:
            self.add(refusal.endpoint_id, refusal.token_id, refusal.code, refusal.last_at, refusal.times)

    def _new(self, key: _Key) -> list[float] | None:
        endpoint_id, _, minute, code = key
        keys = self._keys_of.get(endpoint_id, 0)
        if keys >= MAX_TOKEN_KEYS_OF_ENDPOINT:
            key = (endpoint_id, NO_TOKEN, minute, code)
            if key in self._counts:
                return self._counts[key]
        if keys >= MAX_KEYS_OF_ENDPOINT or len(self._counts) >= MAX_KEYS:
            return None
        self._keys_of[endpoint_id] = keys + 1
        counted = self._counts[key] = [0, 0.0]
        return counted

    def _forget(self, key: _Key) -> None:
        del self._counts[key]
        self._keys_of[key[0]] -= 1
        if not self._keys_of[key[0]]:
            del self._keys_of[key[0]]
