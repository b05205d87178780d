"""No key is sent to an address that is not public, however a name is spelled or resolved.

Keys are sent by the proxy and by the key check. Both are tested here with a listener on loopback that counts its
connections. It listens on the one allowed port, so that only the address decides.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest_django import Settings

from credentials import destinations, egress, key_check, local_addresses, providers, resolver
from credentials.destinations import Destination
from credentials.egress import AddressInfo
from credentials.egress_allowlist import EgressAllowlist
from credentials.errors import KeyUnchecked
from credentials.resolver import Resolver
from proxy.errors import UpstreamForbidden, UpstreamReserved, UpstreamUnreachable
from proxy.upstream import pool as pool_module
from proxy.upstream.origin import Origin
from proxy.upstream.pool import ConnectionPool
from tests.support.certificates import Authority
from tests.support.running import KEY, Strake
from tests.support.upstream import Upstream, eventually, fixed

PUBLIC = "93.184.215.14"
ALICE: dict[str, Any] = {"credential_id": 1, "owner_id": "alice", "owner_email": "alice@example.org"}

FORBIDDEN = """
127.0.0.1 127.0.0.2 127.255.255.254 127.1.1.1 0.0.0.0 0.1.2.3
10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.255.255
169.254.0.1 169.254.169.254 169.254.170.2 169.254.169.253 169.254.169.123
100.64.0.1 100.100.100.200 100.127.255.255 168.63.129.16 192.0.0.192 192.0.0.8 192.0.0.170
192.0.2.1 198.51.100.1 203.0.113.1 198.18.0.1 198.19.255.255 192.88.99.1
224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::2 ::127.0.0.1 ::7f00:1 ::8.8.8.8 ::169.254.169.254
::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:a9fe:a9fe ::ffff:0.0.0.0
::ffff:100.100.100.200 ::ffff:168.63.129.16 ::ffff:0:127.0.0.1 ::ffff:0:a9fe:a9fe
64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b::a83f:8110 64:ff9b::100.100.100.200
64:ff9b::224.0.0.1 64:ff9b:1::1 64:ff9b:1::7f00:1 64:ff9b:1:fffe::a9fe:a9fe
2002:7f00:1:: 2002:a9fe:a9fe:: 2002:a00:1:: 2002:c0a8:1:: 2002:808:808::
2001:0:7f00:1:: 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:10::1 2001:20::1 2001:db8::1 3fff::1 5f00::1
fc00::1 fd00::1 fd00:ec2::254 fdff:ffff::1 fe80::1 fe80::a9fe:a9fe febf::1 fec0::1 feff::1
ff00::1 ff02::1 ff05::2 ff0e::1 100::1 4000::1 8000::1
""".split()  # noqa: SIM905  (one address per line would be pages)

ALLOWED = """
1.1.1.1 8.8.8.8 93.184.215.14 104.18.6.192 172.15.255.255 172.32.0.1 100.63.255.255 100.128.0.1 169.253.255.255
168.63.129.15 192.167.255.255 223.255.255.254 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2606:4700::6812:6c0 2a00:1450:4001::1
2620:0:2d0:200::7
""".split()  # noqa: SIM905

# Spellings that `getaddrinfo` itself resolves to an address of this machine.
ODD_HOSTS = """
127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0x7f.1 0x7f.0.0.1 0177.0.0.1 00000177.1 017700000001 0 0.0.0.0 0x0
::1 ::ffff:127.0.0.1 ::ffff:7f00:1 :: 0:0:0:0:0:0:0:1 localhost \uff11\uff12\uff17.\uff10.\uff10.\uff11 ①②⑦.⓪.⓪.①
""".split()  # noqa: SIM905


class Listener:
    """Listens on 127.0.0.1, and on ::1 if there is IPv6, on one port. Counts its connections."""

    def __init__(self) -> None:
        self._sockets = [socket.create_server(("127.0.0.1", 0), backlog=200)]
        self.port: int = self._sockets[0].getsockname()[1]
        with contextlib.suppress(OSError):  # no IPv6
            self._sockets.append(socket.create_server(("::1", self.port), family=socket.AF_INET6, backlog=200))

    @property
    def visits(self) -> int:
        count = 0
        for listening in self._sockets:
            listening.setblocking(False)
            try:
                while True:
                    listening.accept()[0].close()
                    count += 1
            except BlockingIOError:
                pass
        return count

    def close(self) -> None:
        for listening in self._sockets:
            listening.close()


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[Listener]:
    """A listener that must not be reached. Its port is the allowed one, and it is not in the allowlist."""
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = []
    listener = Listener()
    monkeypatch.setattr(egress, "HTTPS_PORT", listener.port)
    monkeypatch.setattr(pool_module, "CONNECT_SECONDS", 1.0)
    monkeypatch.setattr(key_check, "MAX_SECONDS", 1)
    yield listener
    listener.close()


Script = Callable[..., list[str]]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Script:
    """`resolve(["1.2.3.4"], ["127.0.0.1"])` sets the result of every look-up in order. The last one repeats.

    Returns the list of names that are looked up from then on.
    """

    def script(*responses: Iterable[str]) -> list[str]:
        remaining = [list(response) for response in responses]
        names: list[str] = []

        def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[AddressInfo]:
            names.append(host)
            addresses = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
                if ":" in address
                else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                for address in addresses
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return names

    return script


class Forbidden(Exception):
    """The egress policy forbade the connection."""


class Failed(Exception):
    """There was no response for another reason."""


def key_header() -> tuple[bytes, bytearray]:
    return (b"authorization", bytearray(b"Bearer ") + KEY.encode())


async def send_by_proxy(host: str, port: int, *, scheme: str = "https") -> int:
    """Send a key as forwarding does. Returns the status."""
    pool = ConnectionPool()
    try:
        origin = Origin(scheme, host, port)
        response = await pool.send(origin, "GET", b"/", [(b"host", host.encode())], key_header(), b"", **ALICE)
    except (UpstreamForbidden, UpstreamReserved):
        raise Forbidden from None
    except UpstreamUnreachable:
        raise Failed from None
    finally:
        pool.close()
    return response.status


def check_key(host: str, port: int, *, scheme: str = "https") -> None:
    key_check.check_key(
        provider=providers.get("openai"),
        destination=Destination(scheme, host, port, ""),
        header_name="Authorization",
        header_template="Bearer {{secret}}",
        key=KEY,
    )


Send = Callable[..., Awaitable[int]]


@pytest.fixture(params=["proxy", "key_check"])
def send(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Send:
    """`send(host, port, scheme=…)` sends a key, by each way that sends keys. Raises `Forbidden` or `Failed`."""

    async def send_by_key_check(host: str, port: int, *, scheme: str = "https") -> int:
        with caplog.at_level("INFO", "credentials.key_check"):
            try:
                check_key(host, port, scheme=scheme)
            except KeyUnchecked:
                forbidden = caplog.messages[-1] == "key_check_failed kind=ForbiddenAddress"
                raise (Forbidden if forbidden else Failed) from None
        return 200

    return send_by_proxy if request.param == "proxy" else send_by_key_check


def test_corpora_are_large_enough() -> None:
    assert len(set(FORBIDDEN)) >= 80
    assert len({ipaddress.ip_address(address) for address in FORBIDDEN}) >= 80


# --- When connecting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_no_forbidden_address_is_reached(address: str, send: Send, listener: Listener, resolve: Script) -> None:
    names = resolve([address])
    with pytest.raises(Forbidden):
        await send("api.example.com", listener.port)
    assert names == ["api.example.com"]
    assert listener.visits == 0


@pytest.mark.parametrize("address", ALLOWED)
async def test_public_addresses_pass(address: str, listener: Listener, resolve: Script) -> None:
    resolve([address])
    policy = egress.EgressPolicy(EgressAllowlist([]), plain=False)
    infos = policy.check("a.example", listener.port, await Resolver().aresolve("a.example", None, seconds=10))
    assert [ipaddress.ip_address(info[4][0]) for info in infos] == [ipaddress.ip_address(address)]


@pytest.mark.parametrize("host", ODD_HOSTS)
async def test_no_spelling_of_this_machine_is_reached(host: str, send: Send, listener: Listener) -> None:
    """With the real `getaddrinfo`, and as an IP literal."""
    with pytest.raises((Forbidden, Failed)):
        await send(host, listener.port)
    assert listener.visits == 0


@pytest.mark.parametrize("host", ["127.1", "localhost"])
async def test_listener_counts_without_the_check(
    host: str, send: Send, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check of addresses the listener is reached, so the zeros above mean something."""
    monkeypatch.setattr(egress, "is_public", lambda address: True)
    monkeypatch.setattr(local_addresses, "is_own", lambda address: False)
    with pytest.raises(Failed):
        await send(host, listener.port)
    assert listener.visits >= 1


@pytest.mark.parametrize(
    "addresses",
    [[PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC, "::1"], ["2606:4700::1", "fd00::1", PUBLIC]],
)
async def test_one_forbidden_address_is_enough(
    addresses: list[str], send: Send, listener: Listener, resolve: Script
) -> None:
    resolve(addresses)
    with pytest.raises(Forbidden):
        await send("api.example.com", listener.port)
    assert listener.visits == 0


@pytest.mark.parametrize(
    ("scheme", "port"), [("https", 80), ("https", 8443), ("https", 22), ("http", 80), ("http", 443), ("http", 8080)]
)
async def test_public_addresses_need_tls_on_port_443(
    scheme: str, port: int, send: Send, listener: Listener, resolve: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "HTTPS_PORT", 443)
    resolve([PUBLIC])
    with pytest.raises(Forbidden):
        await send("api.example.com", port, scheme=scheme)


async def test_address_is_checked_again_for_its_socket(
    send: Send, listener: Listener, resolve: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Creating the socket is the last check, for addresses that bypass the one of the resolver."""

    def careless(policy: egress.EgressPolicy, host: str, port: int, addresses: object) -> list[AddressInfo]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    resolve([PUBLIC])
    monkeypatch.setattr(egress.EgressPolicy, "check", careless)
    with pytest.raises(Forbidden):
        await send("api.example.com", listener.port)
    assert listener.visits == 0


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
async def test_no_proxy_from_the_environment_is_used(
    name: str, send: Send, listener: Listener, resolve: Script, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one in the allowlist."""
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"127.0.0.1:{listener.port}"]
    monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
    names = resolve(["10.0.0.1"])
    for scheme in ("https", "http"):
        with pytest.raises(Forbidden):
            await send("api.example.com", listener.port, scheme=scheme)
    assert names == ["api.example.com"] * 2
    assert listener.visits == 0


# --- Rebinding -------------------------------------------------------------------------------------------------------


@pytest.mark.allow_hosts(["127.0.0.1", "127.0.0.2", "::1"])
async def test_rebound_name_is_refused_next_time(
    listener: Listener, resolve: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.2 stands for a public address. Every look-up is checked, and only its addresses are connected to."""
    monkeypatch.setattr(egress, "is_public", lambda address: str(address) == "127.0.0.2")
    monkeypatch.setattr(local_addresses, "is_own", lambda address: False)
    monkeypatch.setattr(resolver, "FRESH_SECONDS", 0.0)
    public = socket.create_server(("127.0.0.2", listener.port))
    names = resolve(["127.0.0.2"], ["127.0.0.1"])
    pool = ConnectionPool()
    origin = Origin("https", "rebound.example", listener.port)
    monkeypatch.setattr(pool_module, "CONNECT_SECONDS", 2)
    try:
        with pytest.raises(UpstreamUnreachable):  # it was connected to, but does not speak TLS
            await pool.send(origin, "GET", b"/", [], key_header(), b"", **ALICE)
        public.setblocking(False)
        public.accept()[0].close()
        with pytest.raises(UpstreamForbidden):
            await pool.send(origin, "GET", b"/", [], key_header(), b"", **ALICE)
    finally:
        pool.close()
        public.close()
    assert len(names) == 2
    assert listener.visits == 0


async def test_check_and_connection_share_one_look_up(send: Send, listener: Listener, resolve: Script) -> None:
    """A name could turn private between the check and a second look-up."""
    names = resolve([PUBLIC], ["127.0.0.1"])
    with pytest.raises(Exception, match=PUBLIC):  # from pytest-socket, which blocks connections to other machines
        await send("rebound.example", listener.port)
    assert names == ["rebound.example"]
    assert listener.visits == 0


def test_key_check_resolves_again_after_the_form(
    listener: Listener, resolve: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = resolve([PUBLIC], ["127.0.0.1"])
    with monkeypatch.context() as usual:
        usual.setattr(egress, "HTTPS_PORT", 443)
        destination = destinations.check("https://rebound.example")
    with pytest.raises(KeyUnchecked):
        check_key(destination.host, listener.port)
    assert names == ["rebound.example"] * 2
    assert listener.visits == 0


def test_stored_destination_needs_the_allowlist(run_strake: Callable[..., Strake], upstream: Upstream) -> None:
    running = run_strake(STRAKE_ALLOWED_PRIVATE_UPSTREAMS=f"127.0.0.1:{upstream.port}")
    endpoint = running.connect(upstream.url)
    assert httpx.get(f"{endpoint.url}/x", headers=endpoint.bearer).status_code == 200
    connections = len(upstream.connections)
    running.stop()
    running.environment["STRAKE_ALLOWED_PRIVATE_UPSTREAMS"] = "127.0.0.1:1"
    running.start()
    response = httpx.get(f"{endpoint.url}/x", headers=endpoint.bearer)
    assert (response.status_code, response.headers["x-strake-error"]) == (502, "upstream_forbidden")
    assert "127.0.0.1" not in response.text
    assert len(upstream.connections) == connections


# --- Redirects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_key_check_follows_no_redirect(status: int, listener: Listener, upstream: Upstream, settings: Settings) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"127.0.0.1:{upstream.port}", f"127.0.0.1:{listener.port}"]
    upstream.on("/v1/models", fixed(status, [("Location", f"http://127.0.0.1:{listener.port}/")]))
    with pytest.raises(KeyUnchecked):
        check_key("127.0.0.1", upstream.port, scheme="http")
    assert len(upstream.exchanges) == 1
    assert listener.visits == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_proxy_forwards_redirects_unfollowed(
    status: int, listener: Listener, upstream: Upstream, settings: Settings
) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"127.0.0.1:{upstream.port}", f"127.0.0.1:{listener.port}"]
    location = f"http://127.0.0.1:{listener.port}/"
    upstream.on("/", fixed(status, [("Location", location)]))
    pool = ConnectionPool()
    try:
        origin = Origin("http", "127.0.0.1", upstream.port)
        response = await pool.send(origin, "GET", b"/", [(b"host", b"a")], key_header(), b"", **ALICE)
    finally:
        pool.close()
    assert response.status == status
    assert (b"Location", location.encode()) in response.headers
    assert listener.visits == 0


# --- The allowlist ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "host", "allowed"),
    [
        (["127.0.0.1:PORT"], "127.0.0.1", True),
        (["127.0.0.0/8"], "127.0.0.1", True),
        (["127.0.0.0/8"], "127.1", True),
        (["localhost:PORT"], "localhost", True),
        (["LOCALHOST:PORT"], "localhost", True),
        (["127.0.0.1:1"], "127.0.0.1", False),
        (["127.0.0.2:PORT"], "127.0.0.1", False),
        (["127.0.0.2/32", "10.0.0.0/8"], "127.0.0.1", False),
        (["localhost:PORT"], "127.0.0.1", True),
        (["127.0.0.0/8:PORT"], "127.0.0.1", True),
        (["127.0.0.0/8:PORT=bob@example.org"], "127.0.0.1", False),
        (["127.0.0.0/8:1"], "127.0.0.1", False),
        (["localhost:1"], "localhost", False),
        (["::1/128"], "127.0.0.1", False),
        (["::/96"], "127.0.0.1", False),
    ],
)
async def test_allowlist_allows_only_what_it_names(
    entries: list[str], host: str, allowed: bool, send: Send, upstream: Upstream, settings: Settings
) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [entry.replace("PORT", str(upstream.port)) for entry in entries]
    if allowed:
        assert await send(host, upstream.port, scheme="http") == 200
    else:
        with pytest.raises(Forbidden):
            await send(host, upstream.port, scheme="http")
        assert not upstream.exchanges


# --- Certificates ----------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that this process trusts, as set in an operator's environment."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    return authority


async def test_connections_are_not_shared_between_names(
    authority: Authority, resolve: Script, settings: Settings
) -> None:
    """Two names have one address, and a certificate for the first. The second fails, and its key is not sent."""
    resolve(["127.0.0.1"])
    with Upstream(tls=authority.server("first.example")) as server:
        settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"{name}.example:{server.port}" for name in ("first", "second")]
        pool = ConnectionPool()

        async def get(name: str) -> int:
            origin = Origin("https", name, server.port)
            headers = [(b"host", name.encode())]
            response = await pool.send(origin, "GET", f"/{name}".encode(), headers, key_header(), b"", **ALICE)
            while not response.finished:
                await response.read()
            response.close()
            return response.status

        try:
            assert await get("first.example") == 200
            for _ in range(3):
                with pytest.raises(UpstreamUnreachable):
                    await get("second.example")
                assert await get("first.example") == 200
        finally:
            pool.close()
        assert {exchange.path for exchange in server.exchanges} == {"/first.example"}
        assert len({id(exchange.connection) for exchange in server.exchanges}) == 1  # the first name kept its own


@pytest.mark.parametrize("flaw", ["none", "other name", "unknown authority", "expired"])
async def test_certificate_is_verified(
    flaw: str, send: Send, authority: Authority, resolve: Script, settings: Settings, tmp_path: Path
) -> None:
    resolve(["127.0.0.1"])
    issuer = Authority(tmp_path / "other") if flaw == "unknown authority" else authority
    name = "other.example" if flaw == "other name" else "api.example"
    with Upstream(tls=issuer.server(name, expired=flaw == "expired")) as server:
        settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"api.example:{server.port}"]
        if flaw == "none":
            assert await send("api.example", server.port) == 200
            return
        with pytest.raises(Failed):
            await send("api.example", server.port)
        eventually(lambda: not server.open_connections)
        assert not server.exchanges
        assert not server.malformed
