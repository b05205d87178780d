"""Metrics that a process keeps in its memory, as plain numbers, so that counting costs next to nothing.

`strake/metrics/` publishes them. A metric is created once, when its module is loaded. Values of labels never come from
a request: they are names from the code, or ids that an operator has chosen.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

# A limit against mistakes: beyond it, every label has the value `OTHER`.
MAX_SERIES = 10_000
OTHER = "other"
# The advice for `http.server.request.duration` (https://opentelemetry.io/docs/specs/semconv/http/http-metrics/).
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

Labels = tuple[str, ...]
Merge = Literal["sum", "max"]


class Metric:
    """A metric of this process. `help` is what Prometheus shows. `merge` combines the values of several processes."""

    kind = ""

    def __init__(self, name: str, help: str, labels: Sequence[str] = (), *, merge: Merge = "sum") -> None:
        self.name = name
        self.help = help
        self.labels = tuple(labels)
        self.merge: Merge = merge
        self.values: dict[Labels, Any] = {}
        if name in registry:
            raise ValueError(f"There are two metrics with the name {name}.")
        registry[name] = self

    def snapshot(self) -> dict[str, Any]:
        """Return the metric with its values, for JSON. Safe to call from any thread."""
        return {
            "kind": self.kind,
            "help": self.help,
            "labels": self.labels,
            "merge": self.merge,
            "values": [[labels, self._published(value)] for labels, value in self.values.copy().items()],
        }

    def _published(self, value: Any) -> Any:
        return value

    def _key(self, labels: Labels) -> Labels:
        if labels in self.values or len(self.values) < MAX_SERIES:
            return labels
        return (OTHER,) * len(self.labels)


registry: dict[str, Metric] = {}
_lock = threading.Lock()  # the threads of a process count together


class Counter(Metric):
    """A total. It goes on from its last value if a process is replaced."""

    kind = "counter"

    def add(self, *labels: str, by: float = 1) -> None:
        key = self._key(labels)
        with _lock:
            self.values[key] = self.values.get(key, 0) + by

    def set(self, total: float, *labels: str) -> None:
        """Set a total that something else counts."""
        self.values[self._key(labels)] = total


class Gauge(Metric):
    """A value that goes up and down, and ends with its process."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        self.values[self._key(labels)] = value

    def replace(self, values: Mapping[Labels, float]) -> None:
        """Set all values. Other labels have none any more."""
        self.values = {}
        for labels, value in values.items():
            self.set(value, *labels)


class Histogram(Metric):
    """A distribution of durations, observed in units of which a second has `per_second`.

    A row holds the number of observations in each bucket, those beyond the last bound, and the sum of all.
    """

    kind = "histogram"

    def __init__(
        self, name: str, help: str, labels: Sequence[str] = (), *, seconds: Iterable[float], per_second: int = 1
    ) -> None:
        super().__init__(name, help, labels)
        self._seconds = tuple(seconds)
        self._per_second = per_second
        self._bounds = tuple(bound * per_second for bound in self._seconds)

    def observe(self, duration: float, *labels: str) -> None:
        self.observe_all([duration], *labels)

    def observe_all(self, durations: Iterable[float], *labels: str) -> None:
        """Observe many durations at once, which costs a fraction of observing each."""
        ordered = sorted(durations)
        if not ordered:
            return
        ends = [bisect_right(ordered, bound) for bound in self._bounds] + [len(ordered)]
        counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        key = self._key(labels)
        with _lock:
            before = self.values.get(key) or [0] * (len(counts) + 1)
            self.values[key] = [total + more for total, more in zip(before, [*counts, sum(ordered)], strict=True)]

    def snapshot(self) -> dict[str, Any]:
        return super().snapshot() | {"bounds": self._seconds}

    def _published(self, value: list[float]) -> list[float]:
        *counts, total = value
        return [*counts, total / self._per_second]
