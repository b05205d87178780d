"""Counts of the proxy traffic of this process, by provider and never by endpoint, token, path or client.

Counting happens on the event loop, for every request. So each provider has its rows at hand, and numbers become labels
only when they are published.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections import deque
from collections.abc import Callable
from operator import itemgetter
from typing import Any, TypeVar

from django.conf import settings

from accounts.metrics import SECONDS, Counter, Histogram
from credentials.providers import DEMO_SLUG, PROVIDERS
from proxy.request_log.entries import CLOSED, OPENED, Entry

Item = TypeVar("Item")

CUSTOM = "custom"
CLIENT_DISCONNECTED = "client_disconnected"  # the label of a request whose client left, recorded with status 499
_LEFT = 499

# The list for requests, extended for streams.
_STREAM_SECONDS = (*SECONDS, 30, 60, 120, 300, 600, 1800, 3600)
_OWN_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

REQUESTS = Counter(
    "strake_requests_total",
    "Requests that were forwarded, or failed on the way to the provider. The error is Strake's own, if it has one.",
    ["provider", "status_class", "error"],
)
DURATION = Histogram(
    "strake_request_duration_seconds",
    "Time from a request to the end of its response, or of its WebSocket connection.",
    ["provider"],
    seconds=_STREAM_SECONDS,
    per_second=1000,
)
FIRST_BYTE = Histogram(
    "strake_first_byte_seconds",
    "Time from a request to the head of the provider's response.",
    ["provider"],
    seconds=_STREAM_SECONDS,
    per_second=1000,
)
OVERHEAD = Histogram(
    "strake_overhead_seconds",
    "The part of the time to the first byte that Strake took itself.",
    seconds=_OWN_SECONDS,
)
REFUSALS = Counter(
    "strake_refusals_total", "Requests that Strake refused before they reached a provider, by error code.", ["code"]
)
ENDED = Counter(
    "strake_in_flight_ended_total",
    "Requests in flight that Strake ended because their access had ended, by error code.",
    ["code"],
)


_STATUS, _LATENCY, _FIRST_BYTE = itemgetter(2), itemgetter(3), itemgetter(4)
_ERROR, _PHASE = itemgetter(6), itemgetter(7)
_own: list[float] = []
_ignore: deque[Any] = deque(maxlen=0)


class ProviderTraffic:
    """The requests to one provider: entries of the request log, which are counted all together when they are published.

    `add` adds an entry. If nobody publishes, it does nothing.
    """

    __slots__ = ("_pending", "_provider", "add")

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._pending: list[Entry] = []
        self.add: Callable[[Entry], None] = self._pending.append if settings.STRAKE_METRICS_BIND else _ignore.append

    def publish(self) -> None:
        entries = _taken(self._pending)
        if any(map(_ERROR, entries)) or any(map(_PHASE, entries)):
            counts = Counts((entry.status, entry.error) for entry in entries if entry.phase != CLOSED)
            durations = [entry for entry in entries if entry.phase != OPENED]
            answered = [entry for entry in entries if not entry.error]
        else:  # the same in less time
            counts = Counts({(status, ""): count for status, count in Counts(map(_STATUS, entries)).items()})
            durations = answered = entries
        for (status, error), count in counts.items():
            REQUESTS.add(self._provider, f"{status // 100}xx", error or _left(status), by=count)
        DURATION.observe_all(map(_LATENCY, durations), self._provider)
        first_bytes = list(map(_FIRST_BYTE, answered))
        if None in first_bytes:
            first_bytes = [milliseconds for milliseconds in first_bytes if milliseconds is not None]
        FIRST_BYTE.observe_all(first_bytes, self._provider)


add_own: Callable[[float], None] = _own.append if settings.STRAKE_METRICS_BIND else _ignore.append
_by_provider: dict[str, ProviderTraffic] = {}


def of(provider: str) -> ProviderTraffic:
    """Return the traffic of a provider. One that is not in the table counts as custom."""
    slug = provider if provider in PROVIDERS or provider == DEMO_SLUG else CUSTOM
    if (traffic := _by_provider.get(slug)) is None:
        traffic = _by_provider[slug] = ProviderTraffic(slug)
    return traffic


def publish() -> None:
    """Count the requests since the last call. For one thread at a time, which need not be that of the event loop."""
    for traffic in list(_by_provider.values()):
        traffic.publish()
    OVERHEAD.observe_all(_taken(_own))


def _taken(pending: list[Item]) -> list[Item]:
    """Remove and return what is pending. Others may append meanwhile."""
    taken = pending[:]
    del pending[: len(taken)]
    return taken


def _left(status: int) -> str:
    return CLIENT_DISCONNECTED if status == _LEFT else ""
