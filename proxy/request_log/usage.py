"""The use of one endpoint by hour or day, token and status class, from the rollups."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from credentials.models import Endpoint
from proxy.models import RequestRollup
from proxy.request_log.histogram import percentile


@dataclass(slots=True)
class Bucket:
    """The requests with one token in one status class, from `start` for an hour or a day of UTC.

    Percentiles are in milliseconds, or None if none was answered.
    """

    start: datetime
    token_id: str
    status_class: int
    count: int = 0
    latencies: Counter[int] = field(default_factory=Counter)
    latency_max: int = 0

    def percentile(self, share: float) -> int | None:
        found = percentile(self.latencies, share)
        return None if found is None else min(found, self.latency_max)  # the middle of a bucket may be above it


def buckets(endpoint: Endpoint, since: datetime, *, by_day: bool, token_id: str = "") -> list[Bucket]:
    """Return the buckets that have requests, oldest first, those of one token if `token_id` is given.

    `since` is a whole hour. The first day may have less than all of its hours.
    """
    rollups = RequestRollup.objects.filter(endpoint=endpoint, hour__gte=since)
    if token_id:
        rollups = rollups.filter(token_id=token_id)
    found: dict[tuple[datetime, str, int], Bucket] = {}
    fields = ("hour", "token_id", "status_class", "count", "latency_histogram", "latency_max_ms")
    for hour, token, status_class, count, histogram, latency_max in rollups.values_list(*fields):
        key = (hour.replace(hour=0) if by_day else hour, token, status_class)
        bucket = found.setdefault(key, Bucket(*key))
        bucket.count += count
        bucket.latencies.update({int(latency): number for latency, number in histogram.items()})
        bucket.latency_max = max(bucket.latency_max, latency_max)
    return [found[key] for key in sorted(found)]
