"""The limits of a token: paths, networks, expiry, requests per minute, concurrent requests."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts.addresses import parse_address
from proxy.access import policy
from proxy.access.path_patterns import PathPatterns
from proxy.errors import EndpointPaused, InvalidToken, NetworkNotAllowed, PathNotAllowed
from tests.support.load import Client, Sample
from tests.support.raw import ask, connected, get, read_head, reset
from tests.support.routes import route
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream, endless, eventually, fixed, silence, sse

RunStrake = Callable[..., Strake]


def check(
    *, method: str = "POST", path: str = "/v1/chat/completions", address: str = "192.0.2.1", **fields: Any
) -> None:
    """Call `policy.check` for a row with these fields."""
    policy.check(route(**fields), method=method, path=path.encode(), address=parse_address(address))


# --- The rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "method", "path", "passes"),
    [
        ("POST /v1/chat/completions", "POST", "/v1/chat/completions", True),
        ("POST /v1/chat/completions", "GET", "/v1/chat/completions", False),
        ("POST /v1/chat/completions", "POST", "/v1/chat/completions/x", False),
        ("POST /v1/chat/completions", "POST", "/x/v1/chat/completions", False),
        ("* /v1/models", "DELETE", "/v1/models", True),
        ("GET /v1/models/*", "GET", "/v1/models/gpt-5", True),
        ("GET /v1/models/*", "GET", "/v1/models/", True),
        ("GET /v1/models/*", "GET", "/v1/models/a/b", False),
        ("GET /v1/models/**", "GET", "/v1/models/a/b", True),
        ("GET /v1/models/**", "GET", "/v1/models", False),
        ("* /**", "PATCH", "/anything/at/all", True),
        ("* /v1/files.json", "GET", "/v1/filesXjson", False),
        ("* /v1/(a)+$", "GET", "/v1/(a)+$", True),
        ("* /v1/models/*", "GET", "/v1/models/openai%2Fgpt", False),
        ("* /v1/models/**", "GET", "/v1/models/openai%2fgpt", False),
        ("* /v1/models/**", "GET", "/v1/models/openai%252Fgpt", False),
        ("* /v1/models/*", "GET", "/v1/MODELS/x", False),
    ],
)
def test_paths(allowed: str, method: str, path: str, passes: bool) -> None:
    if passes:
        check(allowed_paths=[allowed], method=method, path=path)
    else:
        with pytest.raises(PathNotAllowed):
            check(allowed_paths=[allowed], method=method, path=path)


_ENTRY = st.builds("{} /{}".format, st.sampled_from(["GET", "POST", "*"]), st.text("ab/*", max_size=12))


@given(
    entries=st.lists(_ENTRY, min_size=1, max_size=4),
    method=st.sampled_from(["GET", "POST", "PUT"]),
    path=st.text("ab/", max_size=12).map("/".__add__),
)
def test_patterns_match_like_regular_expressions(entries: list[str], method: str, path: str) -> None:
    wanted = False
    for entry in entries:
        allowed, _, glob = entry.partition(" ")
        source = re.escape(glob).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
        wanted |= allowed in {"*", method} and re.fullmatch(source, path) is not None
    assert PathPatterns(tuple(entries)).match(method, path.encode()) is wanted


def test_no_pattern_blocks_a_worker() -> None:
    """The same process serves other people. As a regular expression, the first pattern takes minutes."""
    started = time.monotonic()
    for glob, path in [
        ("/" + "**a" * 5 + "**b", "/" + "a" * 400),
        ("/" + "**a" * 80 + "**b", "/" + "a" * 60_000),
        ("/" + "*a" * 80 + "*b", "/" + "a" * 60_000),
    ]:
        with pytest.raises(PathNotAllowed):
            check(allowed_paths=[f"* {glob}"], path=path)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("networks", "address", "passes"),
    [
        (["192.0.2.0/24"], "192.0.2.255", True),
        (["192.0.2.0/24"], "192.0.3.0", False),
        (["192.0.2.0/24"], "::ffff:192.0.2.9", True),
        (["2001:db8::/32"], "2001:db8:1::9", True),
        (["2001:db8::/32"], "192.0.2.1", False),
        (["198.51.100.7/32", "203.0.113.0/24"], "203.0.113.80", True),
        (["192.0.2.0/24"], "not an address", False),
    ],
)
def test_networks(networks: list[str], address: str, passes: bool) -> None:
    if passes:
        check(allowed_networks=networks, address=address)
    else:
        with pytest.raises(NetworkNotAllowed):
            check(allowed_networks=networks, address=address)


def test_expired_token_is_invalid() -> None:
    now = datetime.now(UTC)
    check(expires_at=now + timedelta(seconds=5))
    with pytest.raises(InvalidToken):
        check(expires_at=now)


def test_invalid_token_reveals_nothing_else() -> None:
    """An expired or revoked token reveals nothing about the endpoint, neither that it is paused nor its limits."""
    nothing_allowed: dict[str, Any] = {
        "paused_at": datetime.now(UTC),
        "allowed_paths": ["GET /x"],
        "allowed_networks": ["10.0.0.0/8"],
    }
    for dead in ({"revoked_at": "2026-01-01"}, {"expires_at": datetime(2026, 1, 1, tzinfo=UTC)}, {"token_id": None}):
        with pytest.raises(InvalidToken):
            check(**nothing_allowed, **dead)
    with pytest.raises(EndpointPaused):
        check(**nothing_allowed)


# --- On the real server --------------------------------------------------------------------------------------------


async def calls(
    strake: Strake, endpoint: Endpoint, count: int, *, clients: int = 1, path: str = "/v1/models", **options: Any
) -> list[Sample]:
    async def call() -> list[Sample]:
        client = Client(strake.address)
        samples = [
            await client.request(f"{endpoint.path}{path}", endpoint.token, **options) for _ in range(count // clients)
        ]
        await client.close()
        return samples

    return [sample for samples in await asyncio.gather(*(call() for _ in range(clients))) for sample in samples]


def outcomes(samples: list[Sample]) -> list[tuple[int, str]]:
    return [(sample.status, sample.error) for sample in samples]


async def test_refused_requests_do_not_reach_the_provider(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    narrow = strake.issue(endpoint, allowed_paths=["GET /v1/models"])
    elsewhere = strake.issue(endpoint, allowed_networks=["192.0.2.0/24"])
    here = strake.issue(endpoint, allowed_networks=["127.0.0.0/8"])
    assert outcomes(await calls(strake, narrow, 1)) == [(200, "")]
    assert outcomes(await calls(strake, here, 1)) == [(200, "")]
    upstream.clear()
    assert outcomes(await calls(strake, narrow, 1, path="/v1/files")) == [(403, "path_not_allowed")]
    assert outcomes(await calls(strake, narrow, 1, method="DELETE")) == [(403, "path_not_allowed")]
    assert outcomes(await calls(strake, elsewhere, 1)) == [(403, "network_not_allowed")]
    assert upstream.exchanges == []


async def test_network_is_checked_behind_trusted_proxies(
    run_strake: RunStrake, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    forwarded = {"X-Forwarded-For": "10.9.9.9, 192.0.2.7"}
    untrusting = strake.issue(endpoint, allowed_networks=["192.0.2.0/24"])
    assert outcomes(await calls(strake, untrusting, 1, headers=forwarded)) == [(403, "network_not_allowed")]
    behind = run_strake(STRAKE_TRUSTED_PROXIES="1")
    first = behind.connect(upstream.url)
    proxied = behind.issue(first, allowed_networks=["192.0.2.0/24"])
    spoofed = behind.issue(first, allowed_networks=["10.9.9.9/32"])
    assert outcomes(await calls(behind, proxied, 1, headers=forwarded)) == [(200, "")]
    assert outcomes(await calls(behind, spoofed, 1, headers=forwarded)) == [(403, "network_not_allowed")]


async def test_token_is_refused_once_it_expires(strake: Strake, endpoint: Endpoint) -> None:
    until = strake.python(
        "from datetime import timedelta\n"
        "from django.utils import timezone\n"
        "from credentials.models import BearerToken\n"
        "at = timezone.now() + timedelta(seconds=8)\n"
        f"BearerToken.objects.filter(pk='{endpoint.token_id}').update(expires_at=at)\nprint(at.timestamp())"
    )
    assert outcomes(await calls(strake, endpoint, 1)) == [(200, "")]
    await asyncio.sleep(max(0.0, float(until) - time.time()))
    assert outcomes(await calls(strake, endpoint, 1)) == [(401, "invalid_token")]


async def test_rate_limit_sends_the_standard_headers(strake: Strake, endpoint: Endpoint) -> None:
    limited = strake.issue(endpoint, requests_per_minute=5)
    samples = await calls(strake, limited, 7)
    assert outcomes(samples) == [(200, "")] * 5 + [(429, "rate_limited")] * 2
    assert [sample.headers["ratelimit-remaining"] for sample in samples] == ["4", "3", "2", "1", "0", "0", "0"]
    assert {sample.headers["ratelimit-limit"] for sample in samples} == {"5"}
    refused = samples[-1].headers
    assert refused["retry-after"] == refused["ratelimit-reset"]
    assert 55 <= int(refused["retry-after"]) <= 60
    [unlimited] = await calls(strake, endpoint, 1)
    assert not [name for name in unlimited.headers if name.startswith("ratelimit")]


async def test_provider_rate_limit_headers_are_kept(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.default = fixed(200, [("RateLimit-Limit", "999"), ("x-ratelimit-remaining-requests", "7")], b"{}")
    [sample] = await calls(strake, strake.issue(endpoint, requests_per_minute=5), 1)
    assert sample.headers["ratelimit-limit"] == "999"
    assert sample.headers["x-ratelimit-remaining-requests"] == "7"
    assert "ratelimit-remaining" not in sample.headers


@pytest.mark.postgres
@pytest.mark.redis
async def test_rate_limit_is_exact_across_four_workers(
    run_strake: RunStrake, upstream: Upstream, migrated_url: str, redis_url: str
) -> None:
    strake = run_strake(WEB_CONCURRENCY="4", DATABASE_URL=migrated_url, REDIS_URL=redis_url)
    endpoint = strake.connect(upstream.url)
    samples: list[Sample] = []
    # If the machine is so busy that Redis takes half a second, workers count locally for a while.
    for _ in range(5):
        limited = strake.issue(endpoint, requests_per_minute=150)
        upstream.clear()
        logged = len(strake.log())
        samples = await calls(strake, limited, 600, clients=40)
        if "redis_unavailable" not in strake.log()[logged:]:
            break
    assert sorted(set(outcomes(samples))) == [(200, ""), (429, "rate_limited")]
    assert outcomes(samples).count((200, "")) == 150
    assert len(upstream.exchanges) == 150


async def test_concurrent_requests_are_limited(run_strake: RunStrake, upstream: Upstream) -> None:
    strake = run_strake(STRAKE_MAX_STREAMS="3")
    endpoint, other = strake.connect(upstream.url), strake.connect(upstream.url)
    upstream.on("/v1/silence", silence)
    clients = [Client(strake.address) for _ in range(3)]
    streams = [asyncio.create_task(one.request(f"{endpoint.path}/v1/silence", endpoint.token)) for one in clients]
    await asyncio.to_thread(eventually, lambda: len(upstream.exchanges) == 3)
    [refused] = await calls(strake, endpoint, 1)
    assert (refused.status, refused.error, refused.headers["retry-after"]) == (429, "too_many_at_once", "1")
    assert outcomes(await calls(strake, other, 1)) == [(200, "")]
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    for client in clients:
        await client.close()
    async with asyncio.timeout(60):  # until Strake has noticed that the clients left
        while outcomes(await calls(strake, endpoint, 3, clients=3)) != [(200, "")] * 3:
            pass


async def test_failed_requests_are_no_longer_counted(run_strake: RunStrake, upstream: Upstream) -> None:
    strake = run_strake(STRAKE_MAX_STREAMS="3")
    endpoint = strake.connect(upstream.url)
    upstream.on("/v1/silence", silence)
    for _ in range(10):
        _, writer = await asyncio.open_connection(*strake.address)
        head = f"GET {endpoint.path}/v1/silence HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {endpoint.token}"
        writer.write(f"{head}\r\n\r\n".encode())
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await asyncio.sleep(0.05)
    async with asyncio.timeout(60):
        while outcomes(await calls(strake, endpoint, 6)) != [(200, "")] * 6:
            pass


class Streams:
    """Opens streams, each of which stays open until the test closes it."""

    def __init__(self, strake: Strake, endpoint: Endpoint, stack: contextlib.ExitStack) -> None:
        self.strake, self.endpoint, self.stack = strake, endpoint, stack

    def open(self, path: str = "/v1/stream") -> tuple[socket.socket, bytes]:
        """Open one more. Returns its connection and the head of the response."""
        connection = self.stack.enter_context(connected(self.strake.address))
        connection.sendall(get(self.endpoint, path))
        return connection, read_head(connection).lower()

    def may_open(self) -> bool:
        connection, head = self.open()
        if head.startswith(b"http/1.1 200"):
            return True
        assert head.startswith(b"http/1.1 429")
        assert b"\r\nx-strake-error: too_many_at_once\r\n" in head
        assert b"\r\nretry-after: 1\r\n" in head
        connection.close()
        return False


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_endpoint_limit_applies_to_the_next_request(
    database: str, run_strake: RunStrake, upstream: Upstream, request: pytest.FixtureRequest
) -> None:
    environment = {"STRAKE_MAX_STREAMS": "5"}
    if database == "postgresql":
        environment["DATABASE_URL"] = request.getfixturevalue("migrated_url")
    strake = run_strake(**environment)
    endpoint, other = strake.connect(upstream.url), strake.connect(upstream.url)
    upstream.on("/v1/stream", endless(b"data: x\n\n", every=0.02))
    with contextlib.ExitStack() as stack:
        streams = Streams(strake, endpoint, stack)
        strake.call("limit", subdomain=endpoint.subdomain, max_streams=2)
        first, head = streams.open()
        assert head.startswith(b"http/1.1 200")
        assert [streams.may_open(), streams.may_open()] == [True, False]
        assert ask(strake.address, get(other)).status == 200, "it is a limit of one endpoint"
        strake.call("limit", subdomain=endpoint.subdomain, max_streams=3)
        assert [streams.may_open(), streams.may_open()] == [True, False]
        strake.call("limit", subdomain=endpoint.subdomain, max_streams=1)
        assert not streams.may_open()
        first.recv(65536)  # what has arrived so far
        assert first.recv(65536), "an open stream goes on"
        strake.call("limit", subdomain=endpoint.subdomain, max_streams=None)
        # Three are open: the installation's limit leaves room for two.
        assert [streams.may_open() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("end", ["by itself", "closed", "reset", "reset before a response"])
def test_ended_streams_are_no_longer_counted(end: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/v1/stream", endless(b"data: x\n\n", every=0.02))
    upstream.on("/v1/short", sse([b"data: x\n\n"]))
    upstream.on("/v1/silence", silence)
    strake.call("limit", subdomain=endpoint.subdomain, max_streams=2)
    with contextlib.ExitStack() as stack:
        streams = Streams(strake, endpoint, stack)
        for _ in range(3):  # one leaked count each time would reach the limit
            upstream.exchanges.clear()
            if end == "by itself":
                assert ask(strake.address, get(endpoint, "/v1/short")).body.endswith(b"0\r\n\r\n")
                continue
            connection = stack.enter_context(connected(strake.address))
            connection.sendall(get(endpoint, "/v1/silence" if end == "reset before a response" else "/v1/stream"))
            if end == "reset before a response":
                eventually(lambda: upstream.exchanges)
            else:
                read_head(connection)
            if end == "closed":
                connection.close()
            else:
                reset(connection)
            eventually(lambda: upstream.last.closed_at)
        assert eventually(streams.may_open)
        assert eventually(streams.may_open)
        assert not streams.may_open()
