"""The key check: what the provider receives, how its response is read, and that it cannot take long."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest_django import Settings

from credentials import destinations, key_check
from credentials.egress import EgressPolicy, ForbiddenAddress
from credentials.egress_allowlist import EgressAllowlist
from credentials.egress_transport import EgressTransport
from credentials.errors import KeyRefused, KeyUnchecked
from credentials.providers import KeyCheck, Provider
from tests.support.certificates import Authority
from tests.support.upstream import Exchange, Upstream, eventually, fixed, head, raw, silence

KEY = "sk-canary-0123456789"


@pytest.fixture(autouse=True)
def _allow_loopback(settings: Settings) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.1/32", "::1/128"]


def provider(*, path: str = "/v1/models", headers: tuple[tuple[str, str], ...] = ()) -> Provider:
    return Provider("example", "Example", "", "", KeyCheck(path, headers), "")


def check_key(url: str, *, header: tuple[str, str] = ("Authorization", "Bearer {{secret}}"), **fields: Any) -> None:
    name, template = header
    key_check.check_key(
        provider=provider(**fields),
        destination=destinations.parse(url),
        header_name=name,
        header_template=template,
        key=KEY,
    )


# --- The request -----------------------------------------------------------------------------------------------------


def test_request_holds_only_what_is_needed(upstream: Upstream) -> None:
    check_key(
        upstream.url + "/base",
        path="/v1/models?api-version=2024-10-21",
        headers=(("anthropic-version", "2023-06-01"),),
        header=("X-ApiKey", "Key {{secret}}~"),
    )
    (exchange,) = upstream.exchanges
    assert (exchange.method, exchange.target) == ("GET", b"/base/v1/models?api-version=2024-10-21")
    assert sorted(exchange.headers) == [
        (b"Accept", b"*/*"),
        (b"Accept-Encoding", b"identity"),
        (b"Connection", b"keep-alive"),
        (b"Host", f"127.0.0.1:{upstream.port}".encode()),
        (b"User-Agent", b"Strake"),
        (b"X-ApiKey", f"Key {KEY}~".encode()),
        (b"anthropic-version", b"2023-06-01"),
    ]
    assert exchange.body == b""


def test_path_of_a_destination_is_sent_unchanged(upstream: Upstream) -> None:
    path = "/A-z.0_~!$&'()*+,=:@/%7e".removesuffix("/%7e")
    assert destinations.parse(upstream.url + path).base_path == path
    check_key(upstream.url + path)
    assert upstream.exchanges[0].target == f"{path}/v1/models".encode()


@pytest.mark.parametrize("template", ['"{{secret}}"', "a  b {{secret}}", "{{secret}};,=%41\\", "Bearer\t{{secret}}"])
def test_header_value_is_sent_byte_for_byte(template: str, upstream: Upstream) -> None:
    check_key(upstream.url, header=("X-Key", template))
    assert upstream.exchanges[0].header("x-key") == template.replace("{{secret}}", KEY).encode()


def test_credentials_of_a_netrc_file_are_not_sent(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    check_key(upstream.url, header=("X-Key", "{{secret}}"))
    assert upstream.exchanges[0].header("authorization") is None


def test_provider_without_a_key_check_is_not_asked(upstream: Upstream) -> None:
    before = list(upstream.connections)  # that of another test may be closing
    key_check.check_key(
        provider=Provider("custom", "Custom", "", "", None, ""),
        destination=destinations.parse(upstream.url),
        header_name="X-Key",
        header_template="{{secret}}",
        key=KEY,
    )
    assert upstream.connections == before


# --- The response ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 299])
def test_2xx_means_that_the_key_is_valid(status: int, upstream: Upstream) -> None:
    upstream.default = fixed(status)
    check_key(upstream.url)


@pytest.mark.parametrize("status", [401, 403])
def test_401_and_403_refuse_the_key(status: int, upstream: Upstream) -> None:
    upstream.default = fixed(status)
    with pytest.raises(KeyRefused, match="Example"):
        check_key(upstream.url)


@pytest.mark.parametrize("status", [300, 304, 400, 404, 429, 500, 503, 999])
def test_other_statuses_leave_the_key_unchecked(status: int, upstream: Upstream) -> None:
    upstream.default = fixed(status)
    with pytest.raises(KeyUnchecked, match="Example"):
        check_key(upstream.url)


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200\r\nno colon\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 200_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["nothing", "header", "status", "ssh", "long head", "upgrade", "location"],
)
def test_malformed_response_leaves_the_key_unchecked(response: bytes, upstream: Upstream) -> None:
    upstream.default = raw(response)
    with pytest.raises(KeyUnchecked):
        check_key(upstream.url)


def test_body_is_neither_read_nor_decompressed(upstream: Upstream) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.write(head(200, [("Content-Encoding", "gzip"), ("Content-Length", str(2**40))]))
        while not exchange.connection.lost.is_set():
            await exchange.write(b"not gzip" * 10_000)

    upstream.default = endless
    started = time.monotonic()
    check_key(upstream.url)
    assert time.monotonic() - started < 60
    eventually(lambda: upstream.last.closed_at)


def test_cookies_are_not_stored(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    clients: list[httpx.Client] = []
    create = httpx.Client

    def client(**options: Any) -> httpx.Client:
        clients.append(create(**options))
        return clients[-1]

    monkeypatch.setattr(httpx, "Client", client)
    upstream.default = fixed(200, [("Set-Cookie", "session=1; Path=/")])
    check_key(upstream.url)
    assert len(clients) == 1
    assert not list(clients[0].cookies.jar)


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Callable[..., None]:
    """`names(port, "a.test")` lets names resolve to 127.0.0.1, and allows them."""

    def allow(port: int, *hosts: str) -> None:
        info = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [info])
        settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"{host}:{port}" for host in hosts]

    return allow


def test_host_and_sni_are_the_name(names: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    context = authority.server("a.test")
    indicated: list[str | None] = []
    context.sni_callback = lambda _, name, __: indicated.append(name)
    with Upstream(tls=context) as server:
        names(server.port, "a.test", "b.test")
        check_key(f"https://a.test:{server.port}")
        assert indicated == ["a.test"]
        assert server.exchanges[0].header("host") == f"a.test:{server.port}".encode()
        with pytest.raises(KeyUnchecked):
            check_key(f"https://b.test:{server.port}")  # the certificate is for a.test
        assert indicated == ["a.test", "b.test"]
        assert len(server.exchanges) == 1


def test_address_in_a_certificate_is_verified(
    tls_upstream: tuple[Upstream, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, certificate = tls_upstream
    with pytest.raises(KeyUnchecked):
        check_key(server.url)  # the certificate is not trusted yet
    assert not server.exchanges
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    check_key(server.url)
    assert len(server.exchanges) == 1


# --- Errors and time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["line\nbreak {{secret}}", " {{secret}}", "\x00{{secret}}", "ü{{secret}}"])
def test_errors_never_quote_the_key(value: str, upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"), pytest.raises(KeyUnchecked) as caught:
        check_key(upstream.url, header=("X-Key", value))
    assert not upstream.exchanges
    assert "key_check_failed kind=" in caplog.text
    assert KEY not in caplog.text + str(caught.value)
    assert caught.value.__context__ is None


async def drip(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not exchange.connection.lost.is_set():
        await exchange.write(b"x")
        await asyncio.sleep(0.05)


async def interim(exchange: Exchange) -> None:
    while not exchange.connection.lost.is_set():
        await exchange.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("script", [silence, drip, interim])
def test_deadline_covers_the_whole_exchange(script: Any, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_check, "MAX_SECONDS", 2)
    upstream.default = script
    started = time.monotonic()
    with pytest.raises(KeyUnchecked):
        check_key(upstream.url)
    assert 1.9 < time.monotonic() - started < 60
    eventually(lambda: upstream.last.closed_at)


def test_deadline_covers_the_tls_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_check, "MAX_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        started = time.monotonic()
        with pytest.raises(KeyUnchecked):
            check_key(f"https://127.0.0.1:{listening.getsockname()[1]}")
    assert 1.9 < time.monotonic() - started < 60


def test_deadline_covers_the_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_check, "MAX_SECONDS", 0.3)
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(60) and [])
    started = time.monotonic()
    with pytest.raises(KeyUnchecked):
        check_key("https://slow.example")
    assert time.monotonic() - started < 30
    answer.set()


def test_default_deadline_is_ten_seconds() -> None:
    assert key_check.MAX_SECONDS == 10


# --- The transport ---------------------------------------------------------------------------------------------------


def get(host: str, port: int, *entries: str, seconds: float = 5) -> httpx.Response:
    policy = EgressPolicy(EgressAllowlist(entries), plain=True)
    with httpx.Client(transport=EgressTransport(policy, seconds=seconds), trust_env=False) as client:
        return client.get(f"http://{host}:{port}/x")


def test_transport_returns_the_whole_response(upstream: Upstream) -> None:
    upstream.default = fixed(418, [("X-Test", "a"), ("X-Test", "b")], b"body")
    response = get("127.0.0.1", upstream.port, "127.0.0.1/32")
    assert (response.status_code, response.content) == (418, b"body")
    assert response.headers.get_list("x-test") == ["a", "b"]


def test_transport_names_the_cause() -> None:
    with pytest.raises(ForbiddenAddress):
        get("127.0.0.1", 1)


def test_next_address_is_tried(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    infos = [
        (family, socket.SOCK_STREAM, 6, "", (address, upstream.port))
        for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)
    assert get("both.test", upstream.port, "127.0.0.1/32", "::1/128").status_code == 200


def test_silent_address_leaves_time_for_the_next(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", 0)) for n in (3, 2, 1)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)
    connect = EgressTransport._connect
    given: list[float] = []

    def slow(backend: Any, info: Any, seconds: float) -> socket.socket:
        given.append(seconds)
        if len(given) < 3:
            time.sleep(seconds)
            raise TimeoutError
        return connect(backend, info, seconds)

    monkeypatch.setattr(EgressTransport, "_connect", slow)
    assert get("many.test", upstream.port, "127.0.0.0/8", seconds=3).status_code == 200
    assert given[0] <= 1
    assert given[2] > 0.5


def test_failed_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[socket.socket] = []
    create = EgressPolicy.create_socket

    def remember(policy: EgressPolicy, info: Any) -> socket.socket:
        created.append(create(policy, info))
        return created[-1]

    monkeypatch.setattr(EgressPolicy, "create_socket", remember)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        get("127.0.0.1", port, "127.0.0.1/32")
    assert [connection.fileno() for connection in created] == [-1]
