"""A circuit breaker opens on the first failure, probes, closes on success, and logs each outage once."""

from __future__ import annotations

import asyncio

import pytest

from accounts import outage_log
from proxy.access.circuit_breaker import CircuitBreaker
from tests.support.upstream import until


class Service:
    """Stands in for a store. Its probe fails `failures` times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.probes = 0

    async def probe(self) -> None:
        self.probes += 1
        if self.probes <= self.failures:
            raise ValueError("a text that could quote a password")


async def test_breaker_is_open_until_a_probe_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(failures=3)
    breaker = CircuitBreaker("store", service.probe, 0.01)
    for _ in range(5):
        breaker.trip(OSError("a text that could quote a password"))
    assert breaker.is_open
    await until(lambda: not breaker.is_open)
    assert service.probes == 4
    assert [message.partition("=")[0] for message in caplog.messages] == [
        "store_unavailable kind",
        "store_back seconds",
    ]


async def test_breaker_opens_again_after_it_closed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that passes the probe and then fails is logged twice, and not at each failure."""
    monkeypatch.setattr(outage_log, "STABLE_SECONDS", 0.5)
    breaker = CircuitBreaker("redis", Service(failures=0).probe, 0.01)
    for _ in range(20):
        breaker.trip(OSError())
        assert breaker.is_open
        await until(lambda: not breaker.is_open)
    await until(lambda: "failures=19" in caplog.text)
    assert caplog.text.count("redis_unavailable") == caplog.text.count("redis_back") == 2


async def test_stopped_breaker_probes_no_more() -> None:
    service = Service(failures=1000)
    breaker = CircuitBreaker("store", service.probe, 0.01)
    breaker.trip(OSError())
    await until(lambda: service.probes > 1)
    breaker.stop()
    await asyncio.sleep(0)
    probes = service.probes
    await asyncio.sleep(0.05)
    assert service.probes == probes
