"""The connection test: a request like any other, over a Unix socket to the running proxy."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import OperationalError, connection
from django.test import Client
from django.urls import reverse

from accounts.models import User
from credentials import providers
from credentials.models import Endpoint
from proxy import connection_test
from proxy.connection_test import Attempt, Problem, choose
from proxy.models import RequestRecord
from proxy.request_log import recorder
from proxy.request_log.writer import Entry
from tests.support import factories, running
from tests.support.browser import Browser
from tests.support.factories import Connected
from tests.support.pages import text
from tests.support.running import Strake
from tests.support.upstream import Exchange, Upstream, endless, eventually, fixed, raw, silence, sse

# --- What is tried ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "allowed_paths", "attempt"),
    [
        ("openai", [], "GET /v1/models"),
        ("openai", ["GET /v1/models"], "GET /v1/models"),
        ("openai", ["GET /v1/files", "* /v1/**"], "GET /v1/models"),
        ("openai", ["GET /v1/files/*", "GET /v1/files", "POST /v1/chat/completions"], "GET /v1/files"),
        ("openai", ["GET /v1/files/*", "POST /v1/chat/completions"], "GET /v1/files/models"),
        ("openai", ["* /v1/batches/**"], "GET /v1/batches/models"),
        ("openai", ["POST /v1/embeddings", "POST /v1/**"], "POST /v1/chat/completions"),
        ("openai", ["POST /v1/images/*", "POST /v1/embeddings"], "POST /v1/embeddings"),
        ("openai", ["DELETE /v1/files/*", "PUT /v1/x", "PATCH /v1/x"], None),
        ("anthropic", ["POST /v1/messages"], "POST /v1/messages"),
        ("gemini", ["POST /v1beta/models/*:*"], "POST /v1beta/models/gemini-flash-latest:generateContent"),
        ("deepseek", ["POST /v1/**"], "POST /v1/chat/completions"),
        ("azure-openai", ["GET /openai/**"], "GET /openai/models?api-version=2024-10-21"),
        ("azure-openai", ["POST /openai/**"], "POST /openai/v1/chat/completions"),
        ("custom", [], "GET /"),
        ("custom", ["GET /**"], "GET /"),
        ("custom", ["GET /*/status"], "GET /models/status"),
    ],
)
def test_attempt_is_one_that_the_token_allows(provider: str, allowed_paths: list[str], attempt: str | None) -> None:
    chosen = choose(providers.get(provider), allowed_paths)
    assert (None if chosen is None else str(chosen)) == attempt


# --- What arrives ----------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.django_db(transaction=True)
Press = Callable[..., str]


@pytest.fixture(autouse=True)
def _allowed_upstream(settings: Any) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.1/32"]


@pytest.fixture
def endpoint(proxy_socket: Path, alice: User, upstream: Upstream) -> Connected:
    return factories.make_endpoint(owner=alice, destination_url=upstream.url)


@pytest.fixture
def press(client: Client, alice: User) -> Press:
    """Presses "Test it" as the endpoint's owner. Returns the text of the result."""
    client.force_login(alice)

    def press(endpoint: Endpoint, token: str, *, part: bool = True, **meta: str) -> str:
        headers = {"X-Strake-Part": "1"} if part else {}
        url = reverse("connection_test", args=[endpoint.subdomain])
        response = client.post(url, {"token": token}, headers=headers, **meta)  # type: ignore[arg-type]
        assert response.status_code == 200
        return text(response)

    return press


def call(made: Connected, token: str = "", address: str | None = "192.0.2.1") -> connection_test.Result:
    return connection_test.call(
        endpoint=made.endpoint,
        provider=providers.get(made.endpoint.provider),
        token=token or made.plaintext,
        address=address,
    )


def statuses() -> list[int]:
    return list(RequestRecord.objects.order_by("pk").values_list("status", flat=True))


def test_provider_gets_an_ordinary_request(endpoint: Connected, upstream: Upstream, press: Press) -> None:
    assert press(endpoint.endpoint, endpoint.plaintext).startswith("200 It works: GET / → 200 in ")
    (exchange,) = upstream.exchanges
    assert (exchange.method, exchange.target, exchange.body_size) == ("GET", b"/", 0)
    assert exchange.header("authorization") == f"Bearer {factories.PROVIDER_KEY}".encode()
    names = {name.lower() for name, _ in exchange.headers}
    assert names == {b"host", b"authorization", b"user-agent", b"accept", b"accept-encoding", b"x-strake-hop"}


def test_post_has_an_empty_object(endpoint: Connected, upstream: Upstream, press: Press) -> None:
    upstream.default = fixed(400, body=b'{"error": "no model"}')
    _, token = factories.make_token(endpoint=endpoint.endpoint, allowed_paths=["POST /v1/chat/completions"])
    assert "400 Custom answered POST /v1/chat/completions with 400 in " in press(endpoint.endpoint, token)
    assert (upstream.last.body, upstream.last.header("content-type")) == (b"{}", b"application/json")
    assert call(endpoint, token).status == 400


def test_headers_of_the_key_check_are_sent(endpoint: Connected, alice: User, upstream: Upstream) -> None:
    made = factories.make_endpoint(owner=alice, provider="anthropic", destination_url=upstream.url)
    assert call(made).works
    assert (upstream.last.target, upstream.last.header("anthropic-version")) == (b"/v1/models", b"2023-06-01")


def test_other_status_is_passed_on(endpoint: Connected, upstream: Upstream, press: Press) -> None:
    upstream.default = fixed(404)
    result = press(endpoint.endpoint, endpoint.plaintext)
    assert result.startswith("404 Custom answered GET / with 404 in ")


def test_result_is_a_page_without_scripts(endpoint: Connected, press: Press) -> None:
    assert "200 It works: GET / → 200 in " in press(endpoint.endpoint, endpoint.plaintext, part=False)


def test_test_shows_the_recorded_latency(endpoint: Connected, upstream: Upstream) -> None:
    """Its own figure would differ: it has another start, and would end with the head."""
    upstream.default = fixed(404, body=bytes(1_000_000))
    result = call(endpoint)
    [record] = RequestRecord.objects.all()
    assert (result.status, result.latency_ms) == (record.status, record.latency_ms) == (404, record.latency_ms)
    # The next one shows its own.
    upstream.default = sse([b"a", b"b"], wait=0.4)
    assert call(endpoint).latency_ms == RequestRecord.objects.latest("at").latency_ms
    assert RequestRecord.objects.latest("at").latency_ms >= 300


def test_latency_is_left_out_while_the_log_is_behind(
    endpoint: Connected, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(batch: list[Entry]) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(connection_test, "RECORD_SECONDS", 0.2)
    monkeypatch.setattr(recorder, "write", fail)
    assert press(endpoint.endpoint, endpoint.plaintext) == "200 It works: GET / → 200."


def test_limits_apply(endpoint: Connected, press: Press) -> None:
    _, token = factories.make_token(endpoint=endpoint.endpoint, requests_per_minute=1)
    assert call(endpoint, token).works
    for _ in range(2):
        assert press(endpoint.endpoint, token) == "429 Too many requests a minute: GET / . What to do"


def test_tests_count_as_checks_of_the_owner(
    endpoint: Connected, upstream: Upstream, press: Press, settings: Any
) -> None:
    settings.STRAKE_CHECKS_PER_MINUTE = 1
    assert press(endpoint.endpoint, endpoint.plaintext).startswith("200 It works")
    for part in (True, False):
        result = press(endpoint.endpoint, endpoint.plaintext, part=part)
        assert (
            "Not tested You have reached the limit for checks of keys and connections, which is 1 a minute." in result
        )
    assert len(upstream.exchanges) == 1


@pytest.mark.parametrize("token", ["strk_unknown", "", " ", "strk_\r\nX-Injected: 1", "schlüssel \x00"])
def test_unknown_token_is_tried(token: str, endpoint: Connected, upstream: Upstream, press: Press) -> None:
    assert press(endpoint.endpoint, token) == "401 The token is revoked or expired: GET / . What to do"
    assert not upstream.exchanges


def test_allowed_networks_see_the_tester(endpoint: Connected) -> None:
    _, token = factories.make_token(endpoint=endpoint.endpoint, allowed_networks=["192.0.2.0/24"])
    assert call(endpoint, token, "192.0.2.7").works
    for address in ("198.51.100.1", None):
        assert call(endpoint, token, address).error == "network_not_allowed"


def test_page_names_the_tester(endpoint: Connected, press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is the one that the audit log records."""
    monkeypatch.setattr("accounts.audit.request_ip", lambda request: "192.0.2.7")
    _, token = factories.make_token(endpoint=endpoint.endpoint, allowed_networks=["192.0.2.7/32"])
    assert press(endpoint.endpoint, token).startswith("200 It works")


@pytest.fixture
def own_hosts(settings: Any) -> None:
    settings.STRAKE_PROXY_DOMAIN = "proxy.example"


@pytest.mark.usefixtures("own_hosts")  # first: the proxy reads it when it starts
def test_endpoint_on_its_own_host(endpoint: Connected) -> None:
    assert call(endpoint).works


def test_token_that_allows_only_changes(endpoint: Connected, upstream: Upstream, press: Press) -> None:
    _, token = factories.make_token(endpoint=endpoint.endpoint, allowed_paths=["DELETE /**"])
    assert press(endpoint.endpoint, token).startswith("Not tested This token only allows requests that could change")
    assert not upstream.exchanges


# --- What does not answer --------------------------------------------------------------------------------------------


def test_silent_provider_times_out(
    endpoint: Connected, upstream: Upstream, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_test, "MAX_SECONDS", 3)
    upstream.default = silence
    result = press(endpoint.endpoint, endpoint.plaintext)
    assert result == "No answer Custom didn't answer GET / within 20 seconds."
    eventually(lambda: upstream.last.closed_at)


@pytest.mark.parametrize("body", ["silent", "endless", "cut short"])
def test_body_is_read_for_a_limited_time(
    body: str, endpoint: Connected, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_test, "MAX_SECONDS", 4)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody"
    upstream.default = {
        "silent": raw(head, then="hang"),
        "endless": endless(b"x", every=0.05),
        "cut short": raw(head),
    }[body]
    began = time.monotonic()
    assert call(endpoint).works
    assert time.monotonic() - began < 40
    eventually(lambda: upstream.last.closed_at)


@pytest.mark.parametrize("leftover", [True, False], ids=["refusing", "missing"])
def test_unreachable_proxy_is_named(
    leftover: bool, alice: User, press: Press, settings: Any, tmp_path: Path, upstream: Upstream
) -> None:
    settings.STRAKE_PROXY_SOCKET = tmp_path / "proxy.sock"
    if leftover:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(settings.STRAKE_PROXY_SOCKET))
    made = factories.make_endpoint(owner=alice, destination_url=upstream.url)
    assert press(made.endpoint, made.plaintext).startswith("Not sent Strake's proxy doesn't respond.")


def test_proxy_that_stops_is_named(alice: User, settings: Any, tmp_path: Path) -> None:
    settings.STRAKE_PROXY_SOCKET = tmp_path / "proxy.sock"
    with Upstream(socket_path=settings.STRAKE_PROXY_SOCKET) as proxy:
        proxy.default = raw()
        result = call(factories.make_endpoint(owner=alice))
    assert (result.attempt, result.problem) == (Attempt("GET", "/"), Problem.PROXY_UNREACHABLE)


def test_two_tests_at_a_time_for_each_owner(endpoint: Connected, upstream: Upstream, bob: User, press: Press) -> None:
    released = threading.Event()

    async def held(exchange: Exchange) -> None:
        while not released.is_set():  # noqa: ASYNC110  (set by another thread)
            await asyncio.sleep(0.01)
        await exchange.respond()

    def wait() -> None:
        call(endpoint)
        connection.close()

    upstream.on("/", held)
    neighbour = factories.make_endpoint(owner=bob, destination_url=f"{upstream.url}/bob")
    waiting = [threading.Thread(target=wait) for _ in range(2)]
    for thread in waiting:
        thread.start()
    eventually(lambda: len(upstream.exchanges) == 2, 30)
    result = press(endpoint.endpoint, endpoint.plaintext)
    assert result.startswith("Not tested Strake is still waiting for the answer to another check of yours.")
    assert call(neighbour).works
    released.set()
    for thread in waiting:
        thread.join(10)
    assert call(endpoint).works


# --- The process -----------------------------------------------------------------------------------------------------


def test_connection_test_does_not_load_the_proxy() -> None:
    loaded = "{name for name in sys.modules if name.startswith('proxy.')}"
    code = f"import django, sys; django.setup(); from proxy import connection_test; print(*{loaded})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=django_settings.ROOT, capture_output=True, text=True, check=True
    )
    loaded_modules = set(done.stdout.split())
    assert "proxy.connection_test" in loaded_modules
    assert not loaded_modules & {"proxy.application", "proxy.views", "proxy.unsealing", "proxy.upstream"}


# --- Both halves running -------------------------------------------------------------------------------------------


def test_button_asks_the_running_proxy_as_the_tester(run_strake: Callable[..., Strake], upstream: Upstream) -> None:
    """The address is the tester's, and the request is in the log like any other."""
    strake = run_strake(STRAKE_TRUSTED_PROXIES="1")
    endpoint = strake.issue(strake.connect(upstream.url), allowed_networks=["203.0.113.0/24"])
    page = f"/endpoints/{endpoint.subdomain}/"
    with Browser(strake.url, f"http://localhost:{strake.port}") as browser:
        browser.sign_in(strake.call("signin_link", email="owner@example.org")["link"])
        browser.headers = {"X-Forwarded-For": "203.0.113.9"}
        assert "→ 200" in browser.submit(f"{page}test/", {"token": endpoint.token}, at=f"{page}tokens/").text
        browser.headers = {"X-Forwarded-For": "198.51.100.7"}
        assert (
            "network_not_allowed" in browser.submit(f"{page}test/", {"token": endpoint.token}, at=f"{page}tokens/").text
        )
    assert len(upstream.exchanges) == 1
    names = {name.lower() for name, _ in upstream.last.headers}
    assert {name for name in names if name.startswith(b"x-strake")} == {b"x-strake-hop"}
    eventually(lambda: _refused(strake, endpoint) == ["network_not_allowed"], 10)
    eventually(lambda: _statuses(strake, endpoint) == [200], 10)


def _statuses(strake: Strake, endpoint: running.Endpoint) -> list[int]:
    return [record["status"] for record in strake.call("records", subdomain=endpoint.subdomain)["records"]]


def _refused(strake: Strake, endpoint: running.Endpoint) -> list[str]:
    return [refusal["code"] for refusal in strake.call("refusals", subdomain=endpoint.subdomain)["refusals"]]
