"""Requests become numbers by provider, with labels from the code only."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from accounts.metrics import MAX_SERIES, OTHER, Counter, Histogram, Metric, registry
from proxy.metrics import traffic
from proxy.request_log.entries import CLOSED, OPENED, Entry


@pytest.fixture
def counted() -> Iterator[traffic.ProviderTraffic]:
    """The traffic of a provider, with metrics that hold nothing else."""
    metrics: tuple[Metric, ...] = (traffic.REQUESTS, traffic.DURATION, traffic.FIRST_BYTE)
    before = [metric.values for metric in metrics]
    for metric in metrics:
        metric.values = {}
    provider = traffic.ProviderTraffic("openai")
    provider.add = provider._pending.append  # as with STRAKE_METRICS_BIND
    yield provider
    for metric, values in zip(metrics, before, strict=True):
        metric.values = values


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(registry):
        monkeypatch.setitem(registry, name, registry[name])


def entry(status: int = 200, latency: int = 40, first: int | None = 30, error: str = "", phase: str = "") -> Entry:
    return Entry(uuid4(), "ctok_1", status, latency, first, 0.0, error, phase)


def test_plain_answers_are_counted_by_status_class(counted: traffic.ProviderTraffic) -> None:
    for one in (entry(), entry(201), entry(404), entry(499, first=None)):
        counted.add(one)
    counted.publish()
    assert traffic.REQUESTS.values == {
        ("openai", "2xx", ""): 2,
        ("openai", "4xx", ""): 1,
        ("openai", "4xx", "client_disconnected"): 1,
    }
    assert sum(traffic.DURATION.values["openai",][:-1]) == 4
    assert sum(traffic.FIRST_BYTE.values["openai",][:-1]) == 3


def test_errors_and_websockets_are_counted_once(counted: traffic.ProviderTraffic) -> None:
    for one in (
        entry(502, error="upstream_refused"),
        entry(101, latency=5, first=5, phase=OPENED),
        entry(101, latency=90_000, first=None, phase=CLOSED),
    ):
        counted.add(one)
    counted.publish()
    counted.publish()
    assert traffic.REQUESTS.values == {("openai", "5xx", "upstream_refused"): 1, ("openai", "1xx", ""): 1}
    *buckets, total = traffic.DURATION.values["openai",]
    assert (sum(buckets), total) == (2, 90_040)
    *buckets, total = traffic.FIRST_BYTE.values["openai",]
    assert (sum(buckets), total) == (1, 5)


def test_unknown_provider_counts_as_custom() -> None:
    assert traffic.of("no-such-provider") is traffic.of("custom")
    assert traffic.of("openai") is not traffic.of("custom")


def test_histogram_counts_each_duration_in_its_bucket() -> None:
    histogram = Histogram("test_seconds", "Help.", seconds=(0.005, 0.01), per_second=1000)
    histogram.observe_all([5, 5, 6, 10, 11])
    histogram.observe(4)
    snapshot = histogram.snapshot()
    assert (snapshot["values"], snapshot["bounds"]) == ([[(), [3, 2, 1, 0.041]]], (0.005, 0.01))


def test_series_are_bounded_despite_mistakes() -> None:
    counter = Counter("test_total", "Help.", ["path"])
    for number in range(MAX_SERIES + 10):
        counter.add(str(number))
    assert len(counter.values) == MAX_SERIES + 1
    assert counter.values[(OTHER,)] == 10
