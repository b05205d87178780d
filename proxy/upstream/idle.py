"""The idle connections to providers: kept per origin and credential, bounded, and closed before the provider does."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from time import monotonic

from proxy.upstream.connection import UpstreamConnection

MAX_IDLE_PER_KEY = 128
MAX_IDLE = 1024


# A connection, and when its time is over, by `time.monotonic`. A plain tuple: every request makes one.
_Idle = tuple[UpstreamConnection, float]


class _Bucket:
    """The connections of one key, the oldest first."""

    __slots__ = ("idle", "owner")

    def __init__(self, owner: Hashable) -> None:
        self.owner = owner
        self.idle: list[_Idle] = []


class IdleConnections:
    """Connections that wait for another request with the same key, which names an origin and a credential."""

    def __init__(self) -> None:
        self._buckets: dict[Hashable, _Bucket] = {}
        self._count = 0

    def __iter__(self) -> Iterator[UpstreamConnection]:
        for bucket in self._buckets.values():
            for connection, _ in bucket.idle:
                yield connection

    def __len__(self) -> int:
        return self._count

    def take(self, key: Hashable) -> UpstreamConnection | None:
        """Return a connection that is still open, the last one used, or None.

        A closed idle connection is readable, even before the event loop has noticed. Nothing has been sent on it, so
        using another one is not a retry.
        """
        bucket = self._buckets.get(key)
        if bucket is None:
            return None
        now = monotonic()
        while bucket.idle:
            connection, expires_at = bucket.idle.pop()
            self._count -= 1
            if connection.keep_alive and expires_at > now and not connection.is_readable():
                return connection
            connection.abort()
        return None

    def add(self, key: Hashable, owner: Hashable, connection: UpstreamConnection, *, seconds: float) -> None:
        """Keep a connection for `seconds` after its last activity.

        Over `MAX_IDLE`, the owner of the most connections loses the oldest.
        """
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(owner)
        bucket.idle.append((connection, connection.last_activity + seconds))
        self._count += 1
        if len(bucket.idle) > MAX_IDLE_PER_KEY:
            self._close(bucket, 1)
        elif self._count > MAX_IDLE:
            self._evict()

    def sweep(self) -> None:
        """Close the connections whose time is over."""
        now = monotonic()
        for key, bucket in list(self._buckets.items()):
            expired = [connection for connection, expires_at in bucket.idle if expires_at <= now]
            if expired:
                bucket.idle = [idle for idle in bucket.idle if idle[1] > now]
                self._count -= len(expired)
                for connection in expired:
                    connection.transport.close()
            if not bucket.idle:
                del self._buckets[key]

    def close(self) -> None:
        for connection in self:
            connection.abort()
        self._buckets.clear()
        self._count = 0

    def _evict(self) -> None:
        """Close the older half of one owner's connections. By halves, so that the search for the owner is rare."""
        counts: dict[Hashable, int] = {}
        for bucket in self._buckets.values():
            counts[bucket.owner] = counts.get(bucket.owner, 0) + len(bucket.idle)
        largest = max(counts, key=lambda owner: counts[owner])
        buckets = [bucket for bucket in self._buckets.values() if bucket.owner == largest]
        # The last use of a connection, and not its expiry, which its provider chooses.
        ages = sorted(connection.last_activity for bucket in buckets for connection, _ in bucket.idle)
        middle = ages[len(ages) // 2]
        for bucket in buckets:
            self._close(bucket, sum(connection.last_activity <= middle for connection, _ in bucket.idle))

    def _close(self, bucket: _Bucket, number: int) -> None:
        for connection, _ in bucket.idle[:number]:
            connection.transport.close()
        del bucket.idle[:number]
        self._count -= number
