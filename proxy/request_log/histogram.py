"""Histograms of latencies: how many requests took about so long.

A histogram maps latencies to counts. The latencies are the middles of buckets that grow with them, as in HdrHistogram:
one for each millisecond below 32 ms, and then 16 for each doubling, so each is right to 3.2 %. Few of them occur in an
hour, and histograms are added by adding the counts of equal keys, which SQL can do in the statement that writes them.
HdrHistogram's own packages store arrays in a binary form, which a database cannot add.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import ceil

_PRECISION_BITS = 5


@lru_cache(4096)
def bucket(milliseconds: int) -> int:
    """Return the middle of the bucket of a latency."""
    shift = max(0, milliseconds.bit_length() - _PRECISION_BITS)
    return (milliseconds >> shift << shift) + (1 << shift >> 1)


def percentile(counts: Mapping[int, int], share: float) -> int | None:
    """Return the latency that `share` of the requests did not exceed: that of one of them, without interpolation."""
    rank = ceil(sum(counts.values()) * share)
    for latency in sorted(counts):
        rank -= counts[latency]
        if rank <= 0:
            return latency
    return None
