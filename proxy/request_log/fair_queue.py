"""The entries that wait to be written: bounded in total, with a fair share for every endpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from uuid import UUID

from proxy.request_log.entries import Entry


class FairQueue:
    """At most `size` entries. If it is full, the endpoint with the most entries loses its oldest one.

    So an endpoint loses entries only while no other has more of them: with n endpoints, each has room for `size` / n.
    The entries of one endpoint stay in order, those of several do not.

    Adding costs a look-up and an append. Endpoints are ranked by length only once the queue has been full, and then
    adding and dropping still take constant time.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._count = 0
        # By the number of the endpoint's id: the hash of a UUID is computed in Python.
        self._queues: dict[int, deque[Entry]] = {}
        self._ranking: _Ranking | None = None

    def __len__(self) -> int:
        return self._count

    def add(self, entry: Entry) -> UUID | None:
        """Add an entry. Returns the endpoint that lost one for it, or None."""
        endpoint = entry.endpoint_id.int
        queue = self._queues.get(endpoint)
        if queue is None:
            queue = self._queues[endpoint] = deque()
        queue.append(entry)
        self._count += 1
        if self._ranking is not None:
            self._ranking.move(endpoint, len(queue) - 1, len(queue))
        return self._drop() if self._count > self._size else None

    def take(self, count: int) -> list[Entry]:
        """Remove and return up to `count` entries, one endpoint after the other."""
        taken: list[Entry] = []
        while self._queues and len(taken) < count:
            endpoint, queue = next(iter(self._queues.items()))
            before = len(queue)
            taken += [queue.popleft() for _ in range(min(before, count - len(taken)))]
            self._shrunk(endpoint, before)
        self._count -= len(taken)
        if self._count < self._size // 2:
            self._ranking = None
        return taken

    def put_back(self, entries: Sequence[Entry]) -> list[UUID]:
        """Return entries that `take` returned to the front. Returns the endpoints that lost one, once for each."""
        for entry in reversed(entries):
            queue = self._queues.setdefault(entry.endpoint_id.int, deque())
            queue.appendleft(entry)
            if self._ranking is not None:
                self._ranking.move(entry.endpoint_id.int, len(queue) - 1, len(queue))
        self._count += len(entries)
        return [self._drop() for _ in range(self._count - self._size)]

    def _drop(self) -> UUID:
        if self._ranking is None:
            self._ranking = _Ranking(self._queues)
        endpoint = self._ranking.longest()
        queue = self._queues[endpoint]
        dropped = queue.popleft()
        self._count -= 1
        self._shrunk(endpoint, len(queue) + 1)
        return dropped.endpoint_id

    def _shrunk(self, endpoint: int, before: int) -> None:
        after = len(self._queues[endpoint])
        if not after:
            del self._queues[endpoint]
        if self._ranking is not None:
            self._ranking.move(endpoint, before, after)


class _Ranking:
    """Endpoints by the length of their queue. Every step that lowers the maximum was paid for by an added entry."""

    def __init__(self, queues: Mapping[int, deque[Entry]]) -> None:
        self._by_length: dict[int, dict[int, None]] = {}
        self._max = 0
        for endpoint, queue in queues.items():
            self.move(endpoint, 0, len(queue))

    def longest(self) -> int:
        """Return an endpoint whose queue is the longest. There must be one."""
        return next(iter(self._by_length[self._max]))

    def move(self, endpoint: int, before: int, after: int) -> None:
        """Rank an endpoint whose queue had the length `before` and now has `after`. 0 means none."""
        if before:
            same = self._by_length[before]
            del same[endpoint]
            if not same:
                del self._by_length[before]
        if after:
            self._by_length.setdefault(after, {})[endpoint] = None
        self._max = max(self._max, after)
        while self._max and self._max not in self._by_length:
            self._max -= 1
