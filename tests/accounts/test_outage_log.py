"""What fails for a while is logged when it begins and when it ends, however often it fails meanwhile."""

from __future__ import annotations

import logging

import pytest

from accounts import outage_log
from accounts.outage_log import OutageLog


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(outage_log, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def log() -> OutageLog:
    return OutageLog(logging.getLogger("tests"), "store_unavailable", "store_back")


def test_outage_is_two_lines(clock: Clock, log: OutageLog, caplog: pytest.LogCaptureFixture) -> None:
    log.works()
    for _ in range(7):
        log.failed(OSError("a text that could quote a password"))
        clock.now += 1
    for _ in range(20):
        log.works()
        clock.now += 1
    assert caplog.messages == ["store_unavailable kind=OSError", "store_back seconds=7.0 failures=7"]


def test_flapping_is_four_lines(clock: Clock, log: OutageLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(600):
        log.failed(OSError())
        log.works()
        clock.now += 0.125
    log.works()
    clock.now += outage_log.STABLE_SECONDS
    log.works()
    assert caplog.messages == [
        "store_unavailable kind=OSError",
        "store_back seconds=0.0 failures=1",
        "store_unavailable kind=OSError",
        "store_back seconds=74.8 failures=599",
    ]


def test_later_outage_is_another_one(clock: Clock, log: OutageLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        log.failed(OSError())
        log.works()
        clock.now += outage_log.STABLE_SECONDS
    assert len(caplog.messages) == 4
