"""What a proxy process reports about itself, read from another thread while it forwards."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from credentials.vault import keyring
from credentials.vault.keyring import Keyring
from proxy import vitals
from proxy.access.in_flight import InFlight
from proxy.request_log.recorder import RequestLog
from tests.proxy.access.test_in_flight import enter
from tests.support.vault import MASTER_KEY, OTHER_MASTER_KEY, document


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Keyring:
    ring = keyring.parse(document("new", old=MASTER_KEY, new=OTHER_MASTER_KEY))
    monkeypatch.setattr(keyring, "current", lambda: ring)
    return ring


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Switch threads as often as the interpreter can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def application(**parts: Any) -> Any:
    return SimpleNamespace(**{"in_flight": InFlight(), "request_log": RequestLog()} | parts)


def entered(counts: dict[UUID, int]) -> InFlight:
    in_flight = InFlight()
    for endpoint_id, count in counts.items():
        for _ in range(count):
            enter(in_flight, endpoint_id=endpoint_id)
    return in_flight


def test_master_keys_are_reported_by_check_value(ring: Keyring) -> None:
    measured = vitals.measure(application())
    assert measured.primary_key_id == "new"
    assert measured.key_ids == {"old": ring.check_value("old").hex(), "new": ring.check_value("new").hex()}
    for key in (MASTER_KEY, OTHER_MASTER_KEY):
        assert key.hex() not in repr(measured)


def test_request_log_is_reported(ring: Keyring) -> None:
    measured = vitals.measure(application(request_log=SimpleNamespace(waiting=5, lag_seconds=1.5, lost=2)))
    assert (measured.waiting, measured.lag_seconds, measured.lost) == (5, 1.5, 2)


def test_requests_in_flight_are_reported_by_endpoint(ring: Keyring) -> None:
    one, other = uuid4(), uuid4()
    measured = vitals.measure(application(in_flight=entered({one: 1, other: 3})))
    assert measured.in_flight == {str(one): 1, str(other): 3}
    assert measured.in_flight_total == 4


def test_only_the_busiest_endpoints_are_reported(ring: Keyring) -> None:
    idle, busy = [uuid4() for _ in range(150)], [uuid4() for _ in range(100)]
    measured = vitals.measure(application(in_flight=entered(dict.fromkeys(idle, 1) | dict.fromkeys(busy, 2))))
    assert measured.in_flight == {str(endpoint_id): 2 for endpoint_id in busy}
    assert measured.in_flight_total == 350


def test_measuring_while_requests_come_and_go(ring: Keyring, frequent_switches: None) -> None:
    """The heartbeat measures in a thread. A loop over a dictionary that changes its size raises."""
    in_flight = entered({uuid4(): 1 for _ in range(2000)})
    stop = threading.Event()

    def forward() -> None:
        while not stop.is_set():
            in_flight.leave(enter(in_flight))

    forwarding = threading.Thread(target=forward)
    forwarding.start()
    try:
        totals = {vitals.measure(application(in_flight=in_flight)).in_flight_total for _ in range(500)}
    finally:
        stop.set()
        forwarding.join()
    assert totals <= {2000, 2001}
