"""Tokens that are refused again and again cost no look-up, and valid ones are never kept out by that."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import pytest

from accounts import tokens
from accounts.addresses import IPAddress
from proxy.access import auth_throttle
from proxy.access.auth_throttle import BLOCK_SECONDS, MAX_INVALID_TOKENS, MAX_NEW_TOKENS, MAX_REFUSALS, AuthThrottle
from proxy.access.rate_limits import rate_limited
from proxy.access.route import Route
from proxy.errors import (
    EndpointPaused,
    InvalidToken,
    NeedsKeyAgain,
    NetworkNotAllowed,
    PathNotAllowed,
    ProxyError,
    TooManyAtOnce,
    TooManyRefusals,
    TooManyWrongTokens,
    UnknownEndpoint,
)
from tests.support.running import Strake
from tests.support.upstream import Upstream, eventually

KNOWN = (uuid4(), "ctok_a")
CLIENT: IPAddress = ip_address("192.0.2.1")


@dataclass
class Request:
    """What the throttle reads of a request."""

    digest: bytes = b"digest"
    address: IPAddress | None = CLIENT
    subdomain: str = "abcdefghijkl"
    route: Route | None = None
    refused_token: tuple[UUID, str] | None = None


class Clock:
    """Stands in for `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(auth_throttle, "monotonic", clock)
    return clock


def send(throttle: AuthThrottle, error: ProxyError | None, request: Request | None = None) -> ProxyError | None:
    """Send a request that the look-up would refuse with `error`. Returns the error that the client gets."""
    request = request or Request()
    try:
        throttle.check(request)
    except ProxyError as refused:
        return throttle.refused(request, refused)
    request.route = cast(Route, SimpleNamespace(endpoint_id=KNOWN[0], token_id=KNOWN[1]))
    return None if error is None else throttle.refused(request, error)


# --- By token ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [InvalidToken, UnknownEndpoint, EndpointPaused, NeedsKeyAgain])
def test_token_refused_often_is_not_looked_up(error: type[ProxyError], clock: Clock) -> None:
    throttle = AuthThrottle()
    assert [type(send(throttle, error())) for _ in range(MAX_REFUSALS)] == [error] * MAX_REFUSALS
    looked_up = 0
    for _ in range(1000):
        clock.now += 0.01
        request = Request()
        refused = send(throttle, error(), request)
        looked_up += isinstance(refused, error)
        if isinstance(refused, TooManyRefusals):
            assert refused.retry_after == 1
            assert request.refused_token == KNOWN, "it is counted for its token"
    assert 9 <= looked_up <= 2 * MAX_REFUSALS + 10


def test_token_is_accepted_a_second_after_it_is_valid(clock: Clock) -> None:
    """Whatever was refused before, and however often."""
    throttle = AuthThrottle()
    for _ in range(500):
        clock.now += 0.001
        send(throttle, EndpointPaused())
    clock.now += BLOCK_SECONDS
    for _ in range(100):
        assert send(throttle, None) is None


def test_refusals_now_and_then_are_never_throttled(clock: Clock) -> None:
    throttle = AuthThrottle()
    for _ in range(100):
        clock.now += 2
        assert isinstance(send(throttle, EndpointPaused()), EndpointPaused)


@pytest.mark.parametrize("error", [PathNotAllowed, TooManyAtOnce])
def test_refusal_of_one_request_does_not_block_the_token(error: type[ProxyError]) -> None:
    throttle = AuthThrottle()
    for _ in range(100):
        assert isinstance(send(throttle, error()), error)
    assert send(throttle, None) is None


def test_other_tokens_and_endpoints_are_looked_up(clock: Clock) -> None:
    throttle = AuthThrottle()
    for _ in range(50):
        send(throttle, InvalidToken())
    assert send(throttle, None, Request(digest=b"other")) is None
    assert send(throttle, None, Request(subdomain="other")) is None
    assert isinstance(send(throttle, None), TooManyRefusals)


def test_wrong_network_blocks_only_that_address(clock: Clock) -> None:
    throttle = AuthThrottle()
    refused, allowed = ip_address("2001:db8::1"), ip_address("2001:db8::2")
    for _ in range(50):
        send(throttle, NetworkNotAllowed(), Request(address=refused))
    assert isinstance(send(throttle, NetworkNotAllowed(), Request(address=refused)), TooManyRefusals)
    assert send(throttle, None, Request(address=allowed)) is None


def test_rate_limited_token_keeps_its_error_and_its_time(clock: Clock) -> None:
    throttle = AuthThrottle()
    for _ in range(MAX_REFUSALS):
        send(throttle, rate_limited(60, 0.25))
    request = Request()
    refused = send(throttle, None, request)
    assert refused is not None
    assert (refused.code, refused.retry_after, request.refused_token) == ("rate_limited", 1, KNOWN)
    assert dict(refused.headers())[b"ratelimit-limit"] == b"60"
    clock.now += 0.25
    assert send(throttle, None) is None, "it is accepted as soon as its limit allows"


def test_tokens_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(auth_throttle, "MAX_TOKENS", 100)
    throttle = AuthThrottle()
    for number in range(2000):
        send(throttle, InvalidToken(), Request(digest=b"%d" % number, address=ip_address("127.0.0.1")))
        if number % 20 == 0:
            send(throttle, InvalidToken(), Request(digest=b"often", address=ip_address("127.0.0.1")))
    assert len(throttle._tokens) == 100
    assert isinstance(send(throttle, None, Request(digest=b"often")), TooManyRefusals), "tokens in use are kept"


# --- By network ----------------------------------------------------------------------------------------------------


def made_up(throttle: AuthThrottle, address: str, times: int, start: int = 0) -> Counter[type[object]]:
    """Send tokens that do not exist, once each."""
    return Counter(
        type(send(throttle, InvalidToken(), Request(b"%s-%d" % (address.encode(), start + n), ip_address(address))))
        for n in range(times)
    )


def test_made_up_tokens_are_limited_by_network(clock: Clock) -> None:
    throttle = AuthThrottle()
    assert made_up(throttle, "192.0.2.1", MAX_INVALID_TOKENS) == {InvalidToken: MAX_INVALID_TOKENS}
    assert made_up(throttle, "192.0.2.1", 500, 1000) == {TooManyWrongTokens: 500}
    network = throttle._networks["192.0.2.1"]
    assert network.count == MAX_INVALID_TOKENS + MAX_NEW_TOKENS, "the others were refused before the look-up"
    assert made_up(throttle, "192.0.2.2", MAX_INVALID_TOKENS) == {InvalidToken: MAX_INVALID_TOKENS}


def test_valid_token_from_a_noisy_network_waits_a_second(clock: Clock) -> None:
    throttle = AuthThrottle()
    made_up(throttle, "192.0.2.1", MAX_INVALID_TOKENS)
    for second in range(30):
        made_up(throttle, "192.0.2.1", 500, 1000 * (second + 1))
        valid = Request(digest=b"valid-%d" % second, address=ip_address("192.0.2.1"))
        first = send(throttle, None, valid)
        assert isinstance(first, TooManyWrongTokens)
        assert first.retry_after == 1
        clock.now += 1
        made_up(throttle, "192.0.2.1", 500, 1000 * (second + 1) + 500)
        for _ in range(50):
            assert send(throttle, None, valid) is None


def test_made_up_token_sent_again_is_looked_up_once(clock: Clock) -> None:
    throttle = AuthThrottle()
    made_up(throttle, "192.0.2.1", MAX_INVALID_TOKENS + 100)
    before = throttle._networks["192.0.2.1"].count
    for _ in range(20):
        send(throttle, InvalidToken(), Request(digest=b"again"))
    assert throttle._networks["192.0.2.1"].count == before + 1


def test_ipv6_clients_are_counted_by_64(clock: Clock) -> None:
    throttle = AuthThrottle()
    for number in range(MAX_INVALID_TOKENS):
        made_up(throttle, f"2001:db8::{number:x}", 1)
    assert made_up(throttle, "2001:db8::ffff", 3) == {TooManyWrongTokens: 3}
    assert made_up(throttle, "2001:db8:0:1::1", 1) == {InvalidToken: 1}


def test_count_restarts_after_a_minute(clock: Clock) -> None:
    throttle = AuthThrottle()
    made_up(throttle, "192.0.2.1", MAX_INVALID_TOKENS + 1)
    clock.now += auth_throttle.WINDOW_SECONDS
    assert made_up(throttle, "192.0.2.1", 1, 1000) == {InvalidToken: 1}


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(auth_throttle, "MAX_NETWORKS", 100)
    monkeypatch.setattr(auth_throttle, "MAX_SEEN", 50)
    throttle = AuthThrottle()
    for number in range(1000):
        made_up(throttle, str(ip_address(2**31 + number)), 1)
    assert len(throttle._networks) <= 100
    made_up(throttle, "192.0.2.1", 2000)
    assert len(throttle._seen) + len(throttle._seen_before) <= 100


def test_loopback_is_not_counted(clock: Clock) -> None:
    assert made_up(AuthThrottle(), "127.0.0.1", MAX_INVALID_TOKENS * 2) == {InvalidToken: MAX_INVALID_TOKENS * 2}


# --- With real servers ---------------------------------------------------------------------------------------------


def test_invalid_tokens_are_limited_and_valid_ones_pass(run_strake: Callable[..., Strake], upstream: Upstream) -> None:
    running = run_strake(STRAKE_TRUSTED_PROXIES="1")
    endpoint = running.connect(upstream.url)
    noisy, quiet = {"X-Forwarded-For": "198.51.100.7"}, {"X-Forwarded-For": "198.51.100.8"}
    with httpx.Client(base_url=endpoint.url) as client:

        def invalid() -> dict[str, str]:
            return {"Authorization": f"Bearer {tokens.mint('strk_')}"}

        statuses = [client.get("/x", headers={**invalid(), **noisy}).status_code for _ in range(MAX_INVALID_TOKENS + 3)]
        assert statuses == [401] * MAX_INVALID_TOKENS + [429] * 3
        refused = client.get("/x", headers={**invalid(), **noisy})
        assert refused.headers["x-strake-error"] == "too_many_wrong_tokens"
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/x", headers={**endpoint.bearer, **noisy}).status_code == 200
        assert client.get("/x", headers={**invalid(), **quiet}).status_code == 401


def test_resumed_endpoint_answers_within_a_second(strake: Strake, upstream: Upstream) -> None:
    endpoint = strake.connect(upstream.url)
    strake.call("pause", subdomain=endpoint.subdomain)
    seen: list[Any] = []

    def call(client: httpx.Client) -> Any:
        response = client.get("/x", headers=endpoint.bearer)
        seen.append((response.status_code, response.headers.get("x-strake-error", "")))
        return response.status_code == 200

    with httpx.Client(base_url=endpoint.url) as client:
        eventually(lambda: call(client) or seen[-1] == (429, "too_many_refusals"), 10)
        assert set(seen) == {(403, "endpoint_paused"), (429, "too_many_refusals")}
        strake.call("resume", subdomain=endpoint.subdomain)
        time.sleep(BLOCK_SECONDS)
        assert call(client)
