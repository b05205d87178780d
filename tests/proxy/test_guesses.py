"""Wrong tokens are counted per network, and only they."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import httpx
import pytest

from accounts import tokens
from proxy import guesses
from proxy.errors import TooManyWrongTokens
from proxy.guesses import Guesses
from tests.running import Strake
from tests.upstream import Upstream


def wrong(counter: Guesses, address: str, times: int) -> int:
    """How many of so many wrong tokens are one too many."""
    waits = []
    for _ in range(times):
        try:
            counter.count(ip_address(address))
        except TooManyWrongTokens as error:
            waits.append(error.retry_after or 0)
    assert all(0 < wait <= guesses.WINDOW_SECONDS for wait in waits)
    return len(waits)


def test_a_network_may_be_wrong_so_often_and_its_neighbours_are_not_counted_with_it():
    counter = Guesses()
    assert wrong(counter, "192.0.2.1", guesses.MOST + 5) == 5
    assert wrong(counter, "192.0.2.2", guesses.MOST) == 0


def test_one_ipv6_network_is_one_client():
    counter = Guesses()
    assert sum(wrong(counter, f"2001:db8::{n:x}", 1) for n in range(1, guesses.MOST + 4)) == 3
    assert wrong(counter, "2001:db8:0:1::1", 1) == 0


def test_after_a_minute_the_count_begins_anew(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(guesses, "monotonic", lambda: now[0])
    counter = Guesses()
    assert wrong(counter, "192.0.2.1", guesses.MOST + 1) == 1
    now[0] = guesses.WINDOW_SECONDS
    assert wrong(counter, "192.0.2.1", 1) == 0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guesses, "MOST_NETWORKS", 100)
    counter = Guesses()
    for number in range(1000):
        counter.count(ip_address(number))
    assert len(counter._windows) <= 100


def test_loopback_stands_for_many_clients_and_is_not_counted():
    assert wrong(Guesses(), "127.0.0.1", guesses.MOST * 2) == 0


def test_server_slows_down_wrong_tokens_and_lets_right_ones_pass(run_strake: Callable[..., Strake], upstream: Upstream):
    running = run_strake(STRAKE_TRUSTED_PROXIES="1")
    endpoint = running.connect(upstream.url)
    noisy, quiet = {"X-Forwarded-For": "198.51.100.7"}, {"X-Forwarded-For": "198.51.100.8"}
    with httpx.Client(base_url=endpoint.url) as client:
        invalid = {"Authorization": f"Bearer {tokens.mint('strk_')}"}
        statuses = [client.get("/x", headers={**invalid, **noisy}).status_code for _ in range(guesses.MOST + 3)]
        assert statuses == [401] * guesses.MOST + [429] * 3
        refused = client.get("/x", headers={**invalid, **noisy})
        assert refused.headers["x-strake-error"] == "too_many_wrong_tokens"
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/x", headers={**endpoint.bearer, **noisy}).status_code == 200
        assert client.get("/x", headers={**invalid, **quiet}).status_code == 401
