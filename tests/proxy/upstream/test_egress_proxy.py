"""The company's proxy, a real one: what goes through it, what never does, and how its failures are told apart."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from credentials import destinations, egress_proxy, key_check, local_addresses
from credentials.egress import EgressPolicy
from credentials.egress_allowlist import EgressAllowlist
from credentials.egress_proxy import EgressProxyUnreachable
from credentials.errors import InvalidDestination, KeyUnchecked
from credentials.providers import KeyCheck, Provider
from proxy.connect_failures import ProxyFailed, ProxyRefused, ProxyUnreachable
from proxy.errors import ProxyError, UpstreamForbidden, UpstreamUnreachable
from proxy.upstream.egress_proxy import open_tunnel
from proxy.upstream.origin import Origin
from proxy.upstream.pool import ConnectionPool
from tests.support.certificates import Authority
from tests.support.forward_proxy import ForwardProxy
from tests.support.services import free_port
from tests.support.upstream import Upstream

pytestmark = pytest.mark.tinyproxy
Ask = Callable[..., Awaitable[int]]
Configure = Callable[..., None]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def provider(authority: Authority) -> Iterator[Upstream]:
    """A TLS server on loopback whose certificate is for api.a.test."""
    with Upstream(tls=authority.server("api.a.test")) as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ForwardProxy]]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(ForwardProxy(tmp_path / "forward", **options))


@pytest.fixture
def forward(start: Callable[..., ForwardProxy]) -> ForwardProxy:
    return start()


@pytest.fixture
def configure(settings: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Sets the proxy's URL and what is reached without it. Every name resolves to loopback, as to another machine."""

    def getaddrinfo(host: str, port: None, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    def set_up(url: str, *exceptions: str, resolves: bool = False) -> None:
        settings.STRAKE_EGRESS_PROXY = egress_proxy.parse(url, resolves=resolves, exceptions=exceptions)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(local_addresses, "is_own", lambda address: False)
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.0/8"]
    settings.STRAKE_CA_CERTIFICATES = authority.path.read_text()
    return set_up


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Sends a GET through a new pool. Returns the status."""
    pools: list[ConnectionPool] = []

    async def send(port: int, host: str = "api.a.test", *, scheme: str = "https") -> int:
        pools.append(ConnectionPool())
        response = await pools[-1].send(
            Origin(scheme, host, port),
            "GET",
            b"/x",
            [(b"host", host.encode())],
            (b"authorization", bytearray(b"Bearer sk-canary")),
            b"",
            credential_id=1,
            owner_id=1,
            owner_email="",
        )
        response.close()
        return response.status

    yield send
    for pool in pools:
        pool.close()


def check_key(port: int) -> None:
    key_check.check_key(
        provider=Provider("example", "Example", "", "", KeyCheck("/v1/models", ()), ""),
        destination=destinations.parse(f"https://api.a.test:{port}"),
        header_name="Authorization",
        header_template="Bearer {{secret}}",
        key="sk-canary",
    )


# --- What goes through -----------------------------------------------------------------------------------------------


async def test_tunnel_leads_to_the_checked_address(
    ask: Ask, configure: Configure, forward: ForwardProxy, provider: Upstream
) -> None:
    configure(forward.url)
    assert await ask(provider.port) == 200
    assert forward.asked() == [f"127.0.0.1:{provider.port}"]
    assert provider.last.header("host") == b"api.a.test"


async def test_key_check_goes_the_same_way(configure: Configure, forward: ForwardProxy, provider: Upstream) -> None:
    configure(forward.url)
    check_key(provider.port)
    assert forward.asked() == [f"127.0.0.1:{provider.port}"]
    assert provider.last.header("authorization") == b"Bearer sk-canary"


async def test_certificate_must_be_the_destinations(
    ask: Ask, configure: Configure, forward: ForwardProxy, provider: Upstream
) -> None:
    configure(forward.url)
    with pytest.raises(UpstreamUnreachable):
        await ask(provider.port, "other.test")
    assert forward.asked()
    assert not provider.exchanges


async def test_plain_http_goes_through_a_tunnel_too(
    ask: Ask, configure: Configure, forward: ForwardProxy, upstream: Upstream
) -> None:
    configure(forward.url)
    assert await ask(upstream.port, "ollama.lan", scheme="http") == 200
    assert forward.asked() == [f"127.0.0.1:{upstream.port}"]


async def test_next_address_is_tried(
    ask: Ask, configure: Configure, forward: ForwardProxy, provider: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(forward.url)
    resolved = {"api.a.test": ["127.0.0.9", "127.0.0.1"], "127.0.0.1": ["127.0.0.1"]}

    def getaddrinfo(host: str, port: None, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in resolved[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert await ask(provider.port) == 200
    check_key(provider.port)
    assert forward.asked() == 2 * [f"127.0.0.9:{provider.port}", f"127.0.0.1:{provider.port}"]


async def test_password_is_sent_to_the_proxy_alone(
    ask: Ask, configure: Configure, start: Callable[..., ForwardProxy], provider: Upstream
) -> None:
    forward = start(user="strake:s3cr3t")
    configure(f"http://strake:s3cr3t@127.0.0.1:{forward.port}")
    assert await ask(provider.port) == 200
    check_key(provider.port)
    for exchange in provider.exchanges:
        assert exchange.header("proxy-authorization") is None


# --- What does not ---------------------------------------------------------------------------------------------------


async def test_forbidden_address_is_never_asked_for(
    ask: Ask, configure: Configure, forward: ForwardProxy, settings: Any, provider: Upstream
) -> None:
    configure(forward.url)
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = []
    with pytest.raises(UpstreamForbidden):
        await ask(provider.port)
    with pytest.raises(KeyUnchecked):
        check_key(provider.port)
    assert forward.asked() == []


@pytest.mark.parametrize("exception", ["api.a.test", ".a.test", ".test", "127.0.0.0/8", "127.0.0.1"])
async def test_exception_is_reached_directly(
    ask: Ask, configure: Configure, forward: ForwardProxy, provider: Upstream, exception: str
) -> None:
    configure(forward.url, "other.test", exception)
    assert await ask(provider.port) == 200
    check_key(provider.port)
    assert forward.asked() == []


async def test_own_machine_is_reached_directly(
    ask: Ask, configure: Configure, forward: ForwardProxy, provider: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the proxy, 127.0.0.1 would be the proxy."""
    configure(forward.url)
    monkeypatch.setattr(local_addresses, "is_own", lambda address: address.is_loopback)
    assert await ask(provider.port) == 200
    check_key(provider.port)
    assert forward.asked() == []


@pytest.mark.parametrize(
    ("host", "port", "plain", "is_left"),
    [
        ("api.a.example", 443, False, True),
        ("api.a.example", 443, True, False),
        ("api.a.example", 8443, False, False),
        ("opened.example", 443, False, False),
        ("reserved.example", 443, False, False),
        ("direct.example", 443, False, False),
        *((host, 443, False, False) for host in ("localhost", "intranet", "ollama.lan", "db.internal", "127.0.0.1")),
        *((host, 443, False, False) for host in ("2130706433", "0x7f.1", "::1")),
    ],
)
def test_only_public_names_are_left_to_the_proxy(
    configure: Configure, settings: Any, host: str, port: int, plain: bool, is_left: bool
) -> None:
    """Strake resolves and checks every other one, also if the proxy resolves names."""
    configure("http://127.0.0.1:9", "direct.example", resolves=True)
    allowlist = EgressAllowlist(["opened.example:443", "reserved.example:443=alice@example.org"])
    policy = EgressPolicy(allowlist, plain=plain, owner_email="bob@example.org")
    assert settings.STRAKE_EGRESS_PROXY.gets_name(policy, host, port) is is_left


def test_new_destination_is_not_resolved_in_vain(configure: Configure, settings: Any, forward: ForwardProxy) -> None:
    configure(forward.url, resolves=True)
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = []
    assert destinations.check("https://api.a.example").host == "api.a.example"  # it would resolve to 127.0.0.1
    with pytest.raises(InvalidDestination):
        destinations.check("https://ollama.lan")


# --- Failures --------------------------------------------------------------------------------------------------------


async def test_wrong_password_is_told_apart(
    ask: Ask, configure: Configure, start: Callable[..., ForwardProxy], provider: Upstream
) -> None:
    forward = start(user="strake:s3cr3t")
    for user, status in (("", 407), ("strake:wrong@", 401)):
        configure(f"http://{user}127.0.0.1:{forward.port}")
        with pytest.raises(ProxyRefused) as caught:
            await ask(provider.port)
        assert caught.value.kind == f"EgressProxyUnauthorized: {status}"
    with pytest.raises(KeyUnchecked):
        check_key(provider.port)


async def test_forbidden_destination_is_told_apart(
    ask: Ask, configure: Configure, start: Callable[..., ForwardProxy], provider: Upstream
) -> None:
    configure(start(names=["allowed.test"]).url)
    with pytest.raises(ProxyRefused) as caught:
        await ask(provider.port)
    assert caught.value.kind == "EgressProxyRefused: 403"


async def test_unreachable_destination_is_told_apart(ask: Ask, configure: Configure, forward: ForwardProxy) -> None:
    configure(forward.url)
    with pytest.raises(ProxyFailed) as caught:
        await ask(free_port())
    assert caught.value.kind == "EgressProxyFailed: 500"


async def test_stopped_proxy_is_told_apart(ask: Ask, configure: Configure) -> None:
    configure(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ProxyUnreachable) as caught:
        await ask(443)
    assert caught.value.kind == "EgressProxyUnreachable"


class Impostor:
    """A server that answers every connection with these bytes, and closes it unless it `hangs`. A context manager."""

    def __init__(self, answer: bytes, *, hangs: bool) -> None:
        self.request = b""
        self._answer, self._hangs = answer, hangs
        self._accepted: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._accepted.append(connection)
                with contextlib.suppress(OSError):
                    self.request = connection.recv(4096)
                    connection.sendall(self._answer)
                if not self._hangs:
                    connection.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)  # otherwise it could still accept one, which nobody would close
        for opened in (self._listener, *self._accepted):
            opened.close()


OK = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "hangs"),
    [
        (b"", False),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", True),
        (b"HTTP/2 200\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\n\n", False),
        (b"HTTP/1.1 2000 OK\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nX: " + 20_000 * b"x", True),
        (OK + b"HTTP/1.1 200 OK\r\n\r\n", True),
    ],
    ids=["nothing", "ssh", "HTTP/2", "bare line feeds", "status", "endless head", "more than a head"],
)
async def test_answer_of_no_proxy_is_refused(ask: Ask, configure: Configure, answer: bytes, hangs: bool) -> None:
    with Impostor(answer, hangs=hangs) as impostor:
        configure(f"http://127.0.0.1:{impostor.port}")
        with pytest.raises(ProxyUnreachable) as caught:
            await ask(443)
        assert caught.value.kind.startswith("EgressProxyInvalid")
        with pytest.raises(KeyUnchecked):
            check_key(443)


async def test_silent_proxy_is_given_up() -> None:
    async def resolve(host: str) -> tuple[str, ...]:
        return (host,)

    with Impostor(b"HTTP/1.1 200", hangs=True) as impostor:
        proxy = egress_proxy.parse(f"http://127.0.0.1:{impostor.port}", resolves=False, exceptions=[])
        with pytest.raises(EgressProxyUnreachable):
            await open_tunnel(proxy, ["192.0.2.1:443", "192.0.2.2:443"], resolve, seconds=0.2)
    assert impostor.request.startswith(b"CONNECT 192.0.2.2:443 ")


async def test_request_for_a_tunnel_has_nothing_else(ask: Ask, configure: Configure) -> None:
    with Impostor(b"HTTP/1.1 502 Bad Gateway\r\n\r\n", hangs=False) as impostor:
        configure(f"http://name:p%C3%A4ss%3A@127.0.0.1:{impostor.port}")
        with pytest.raises(ProxyFailed):
            await ask(8443)
    credentials = base64.b64encode("name:päss:".encode())
    assert impostor.request == (
        b"CONNECT 127.0.0.1:8443 HTTP/1.1\r\nHost: 127.0.0.1:8443\r\n"
        b"Proxy-Authorization: Basic " + credentials + b"\r\n\r\n"
    )


@pytest.mark.parametrize("error", [ProxyFailed, ProxyRefused, ProxyUnreachable])
def test_errors_say_that_it_is_the_proxy(error: type[ProxyError]) -> None:
    assert error.status == 502
    assert "STRAKE_EGRESS_PROXY" in error.message or "operator" in error.message
