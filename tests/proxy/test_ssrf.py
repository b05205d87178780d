"""No key goes to an address that is not public, whatever a name spells, resolves to, or resolves to a moment later.

Two paths carry keys out: requests through the proxy and the check of a pasted key. Both run here against a listening
socket on loopback that counts who comes. It listens on the one port that is allowed, so that the address alone decides.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pytest_django import Settings

from credentials import destinations, egress, key_check, providers
from credentials.destinations import Destination
from credentials.errors import InvalidDestination, KeyUnchecked
from proxy import upstream as transport
from proxy.errors import UpstreamForbidden, UpstreamUnreachable
from proxy.upstream import Origin, UpstreamResponse
from tests.running import KEY, Strake
from tests.upstream import Upstream, eventually, fixed

PUBLIC = "93.184.215.14"

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

# Spellings that `getaddrinfo` itself takes for an address of this machine.
ODD_HOSTS = """
127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0x7f.1 0x7f.0.0.1 0177.0.0.1 00000177.1 017700000001 0 0.0.0.0 0x0
::1 ::ffff:127.0.0.1 ::ffff:7f00:1 :: 0:0:0:0:0:0:0:1 localhost \uff11\uff12\uff17.\uff10.\uff10.\uff11 ①②⑦.⓪.⓪.①
""".split()  # noqa: SIM905


class Listener:
    """Listening sockets on 127.0.0.1 and, where there is one, on ::1, on one port. Counts who has come."""

    def __init__(self) -> None:
        self._sockets = [socket.create_server(("127.0.0.1", 0), backlog=200)]
        self.port: int = self._sockets[0].getsockname()[1]
        with contextlib.suppress(OSError):  # a machine without IPv6
            self._sockets.append(socket.create_server(("::1", self.port), family=socket.AF_INET6, backlog=200))

    @property
    def visits(self) -> int:
        count = 0
        for one in self._sockets:
            one.setblocking(False)
            try:
                while True:
                    one.accept()[0].close()
                    count += 1
            except BlockingIOError:
                pass
        return count

    def close(self) -> None:
        for one in self._sockets:
            one.close()


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[Listener]:
    """Where nobody may come. It has the port that is open to everybody, and no hole leads to it."""
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = []
    listener = Listener()
    monkeypatch.setattr(egress, "HTTPS_PORT", listener.port)
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 1.0)
    monkeypatch.setattr(key_check, "SECONDS", 1)
    yield listener
    listener.close()


Resolver = Callable[..., list[str]]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """`resolve(["1.2.3.4"], ["127.0.0.1"])`: what every look-up finds, one after the other; the last one for good.

    Returns the list of names that were looked up from then on.
    """

    def scripted(*answers: Iterable[str]) -> list[str]:
        left = [list(answer) for answer in answers]
        asked: list[str] = []

        def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
            asked.append(host)
            addresses = left.pop(0) if len(left) > 1 else left[0]
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
                if ":" in address
                else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                for address in addresses
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return scripted


async def through_the_proxy(host: str, port: int, *, scheme: str = "https") -> UpstreamResponse:
    """What forwarding does once a request has been admitted."""
    running = transport.Upstream()
    try:
        return await running.send(
            Origin(scheme, host, port), "GET", b"/", [(b"host", host.encode())], key_header(), b""
        )
    finally:
        running.close()


def key_header() -> tuple[bytes, bytearray]:
    return (b"authorization", bytearray(b"Bearer ") + KEY.encode())


def by_the_key_check(host: str, port: int, *, scheme: str = "https") -> None:
    key_check.check_key(
        provider=providers.get("openai"),
        destination=Destination(scheme, host, port, ""),
        header_name="Authorization",
        header_template="Bearer {{secret}}",
        key=KEY,
    )


def test_the_tables_are_big_enough() -> None:
    assert len(set(FORBIDDEN)) >= 80
    assert len({ipaddress.ip_address(address) for address in FORBIDDEN}) >= 80
    assert len(BAD_DESTINATIONS) >= 60


# --- At the moment of connecting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_proxy_connects_to_no_forbidden_address(address: str, listener: Listener, resolve: Resolver) -> None:
    asked = resolve([address])
    with pytest.raises(UpstreamForbidden):
        await through_the_proxy("api.example.com", listener.port)
    assert asked == ["api.example.com"]
    assert listener.visits == 0


@pytest.mark.parametrize("address", FORBIDDEN)
def test_key_check_connects_to_no_forbidden_address(address: str, listener: Listener, resolve: Resolver) -> None:
    asked = resolve([address])
    with pytest.raises(KeyUnchecked):
        by_the_key_check("api.example.com", listener.port)
    assert asked == ["api.example.com"]
    assert listener.visits == 0


@pytest.mark.parametrize("address", ALLOWED)
async def test_public_addresses_pass(address: str, listener: Listener, resolve: Resolver) -> None:
    resolve([address])
    guard = egress.Guard(egress.Holes([]), plain=False)
    found = await guard.resolve("api.example.com", listener.port)
    assert [ipaddress.ip_address(one["host"]) for one in found] == [ipaddress.ip_address(address)]


@pytest.mark.parametrize("host", ODD_HOSTS)
async def test_no_spelling_of_this_machine_is_reached(host: str, listener: Listener) -> None:
    """Through the real `getaddrinfo`, and as an IP literal where it is one."""
    with pytest.raises((UpstreamForbidden, UpstreamUnreachable)):
        await through_the_proxy(host, listener.port)
    assert listener.visits == 0


@pytest.mark.parametrize("host", ODD_HOSTS)
def test_no_spelling_of_this_machine_is_reached_by_the_key_check(host: str, listener: Listener) -> None:
    with pytest.raises(KeyUnchecked):
        by_the_key_check(f"[{host}]" if ":" in host else host, listener.port)
    assert listener.visits == 0


async def test_the_listener_counts_who_is_let_through(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check on addresses both paths do reach it: the zeros above mean something."""
    monkeypatch.setattr(egress, "is_public", lambda address: True)
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.2)
    with pytest.raises(UpstreamUnreachable):
        await through_the_proxy("127.1", listener.port)
    assert listener.visits == 1


def test_the_listener_counts_the_key_check_too(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "is_public", lambda address: True)
    with pytest.raises(KeyUnchecked):
        by_the_key_check("localhost", listener.port)
    assert listener.visits >= 1


@pytest.mark.parametrize(
    "addresses",
    [[PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC, "::1"], ["2606:4700::1", "fd00::1", PUBLIC]],
)
async def test_one_forbidden_address_among_public_ones_is_enough(
    addresses: list[str], listener: Listener, resolve: Resolver
) -> None:
    resolve(addresses)
    with pytest.raises(UpstreamForbidden):
        await through_the_proxy("api.example.com", listener.port)
    assert listener.visits == 0


@pytest.mark.parametrize("addresses", [[PUBLIC, "127.0.0.1"], ["::1", PUBLIC]])
def test_one_forbidden_address_is_enough_for_the_key_check(
    addresses: list[str], listener: Listener, resolve: Resolver
) -> None:
    resolve(addresses)
    with pytest.raises(KeyUnchecked):
        by_the_key_check("api.example.com", listener.port)
    assert listener.visits == 0


@pytest.mark.parametrize(
    ("scheme", "port"), [("https", 80), ("https", 8443), ("https", 22), ("http", 80), ("http", 443), ("http", 8080)]
)
async def test_a_public_address_is_reached_by_tls_on_one_port_only(
    scheme: str, port: int, listener: Listener, resolve: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "HTTPS_PORT", 443)
    resolve([PUBLIC])
    with pytest.raises(UpstreamForbidden):
        await through_the_proxy("api.example.com", port, scheme=scheme)


@pytest.mark.parametrize(("scheme", "port"), [("https", 8443), ("http", 80), ("http", 443)])
def test_key_check_reaches_a_public_address_by_tls_on_one_port_only(
    scheme: str, port: int, listener: Listener, resolve: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "HTTPS_PORT", 443)
    resolve([PUBLIC])
    with pytest.raises(KeyUnchecked):
        by_the_key_check("api.example.com", port, scheme=scheme)


async def test_last_look_refuses_what_resolving_let_through(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket factory stands behind the resolver, for whatever gets around it."""

    async def careless(self: egress.Guard, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 6, "flags": 0}]

    monkeypatch.setattr(egress.Guard, "resolve", careless)
    with pytest.raises(UpstreamForbidden):
        await through_the_proxy("api.example.com", listener.port)
    assert listener.visits == 0


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
async def test_no_proxy_from_the_environment_is_used(
    name: str, listener: Listener, resolve: Resolver, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one that a hole leads to."""
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"127.0.0.1:{listener.port}"]
    monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
    asked = resolve(["10.0.0.1"])
    with pytest.raises(UpstreamForbidden):
        await through_the_proxy("api.example.com", listener.port)
    assert await key_check._ask("https://api.example.com/", [("Authorization", KEY)], plain=False) == 0
    assert set(asked) == {"api.example.com"}
    assert listener.visits == 0


# --- Rebinding -----------------------------------------------------------------------------------------------------


@pytest.mark.allow_hosts(["127.0.0.1", "127.0.0.2", "::1"])
async def test_name_that_turns_private_is_refused_at_the_next_connection(
    listener: Listener, resolve: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.2 stands for a public address: what is checked is what is dialled, in every look-up anew."""
    monkeypatch.setattr(egress, "is_public", lambda address: str(address) == "127.0.0.2")
    monkeypatch.setattr(transport, "DNS_SECONDS", -1)
    public = socket.create_server(("127.0.0.2", listener.port))
    asked = resolve(["127.0.0.2"], ["127.0.0.1"])
    running = transport.Upstream()
    origin = Origin("https", "rebound.example", listener.port)
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.3)
    try:
        with pytest.raises(UpstreamUnreachable):  # it was dialled, and does not speak TLS
            await running.send(origin, "GET", b"/", [], key_header(), b"")
        public.setblocking(False)
        public.accept()[0].close()
        with pytest.raises(UpstreamForbidden):
            await running.send(origin, "GET", b"/", [], key_header(), b"")
    finally:
        running.close()
        public.close()
    assert len(asked) == 2
    assert listener.visits == 0


async def test_one_look_up_serves_check_and_connection(listener: Listener, resolve: Resolver) -> None:
    """A second look-up behind the check would be where the name turns private."""
    asked = resolve([PUBLIC], ["127.0.0.1"])
    with pytest.raises(Exception, match=PUBLIC):  # pytest-socket, which lets nothing out of this machine
        await through_the_proxy("rebound.example", listener.port)
    assert asked == ["rebound.example"]
    assert listener.visits == 0


def test_key_check_refuses_a_name_that_turned_private_since_its_destination_was_checked(
    listener: Listener, resolve: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolve([PUBLIC], ["127.0.0.1"])
    destination = destinations.check("https://rebound.example")
    with pytest.raises(KeyUnchecked):
        by_the_key_check(destination.host, listener.port)
    assert asked == ["rebound.example"] * 2
    assert listener.visits == 0


def test_running_strake_refuses_a_stored_destination_whose_hole_was_closed(
    run_strake: Callable[..., Strake], upstream: Upstream
) -> None:
    running = run_strake(STRAKE_ALLOWED_PRIVATE_UPSTREAMS=f"127.0.0.1:{upstream.port}")
    endpoint = running.connect(upstream.url)
    assert httpx.get(f"{endpoint.url}/x", headers=endpoint.bearer).status_code == 200
    came = len(upstream.connections)
    running.stop()
    running.environment["STRAKE_ALLOWED_PRIVATE_UPSTREAMS"] = "127.0.0.1:1"
    running.start()
    answer = httpx.get(f"{endpoint.url}/x", headers=endpoint.bearer)
    assert (answer.status_code, answer.headers["x-strake-error"]) == (502, "upstream_forbidden")
    assert "127.0.0.1" not in answer.text
    assert len(upstream.connections) == came


# --- Redirects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_key_check_follows_no_redirect(status: int, listener: Listener, upstream: Upstream, settings: Settings) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"127.0.0.1:{upstream.port}", f"127.0.0.1:{listener.port}"]
    upstream.on("/v1/models", fixed(status, [("Location", f"http://127.0.0.1:{listener.port}/")]))
    with pytest.raises(KeyUnchecked):
        by_the_key_check("127.0.0.1", upstream.port, scheme="http")
    assert len(upstream.exchanges) == 1
    assert listener.visits == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_proxy_passes_a_redirect_on_and_does_not_follow_it(
    status: int, listener: Listener, upstream: Upstream, settings: Settings
) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"127.0.0.1:{upstream.port}", f"127.0.0.1:{listener.port}"]
    location = f"http://127.0.0.1:{listener.port}/"
    upstream.on("/", fixed(status, [("Location", location)]))
    answer = await through_the_proxy("127.0.0.1", upstream.port, scheme="http")
    assert answer.status == status
    assert (b"Location", location.encode()) in answer.headers
    assert listener.visits == 0


# --- Holes are as wide as they say ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holes", "host", "port", "open_"),
    [
        (["127.0.0.1:PORT"], "127.0.0.1", 0, True),
        (["127.0.0.0/8"], "127.0.0.1", 0, True),
        (["127.0.0.0/8"], "127.1", 0, True),
        (["localhost:PORT"], "localhost", 0, True),
        (["LOCALHOST:PORT"], "localhost", 0, True),
        (["127.0.0.1:1"], "127.0.0.1", 0, False),
        (["127.0.0.2:PORT"], "127.0.0.1", 0, False),
        (["127.0.0.2/32", "10.0.0.0/8"], "127.0.0.1", 0, False),
        (["localhost:PORT"], "127.1", 0, False),
        (["localhost:1"], "localhost", 0, False),
        (["::1/128"], "127.0.0.1", 0, False),
        (["::/96"], "127.0.0.1", 0, False),
    ],
)
async def test_a_hole_opens_what_it_names(
    holes: list[str],
    host: str,
    port: int,
    open_: bool,
    listener: Listener,
    upstream: Upstream,
    settings: Settings,
) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [hole.replace("PORT", str(upstream.port)) for hole in holes]
    if open_:
        assert (await through_the_proxy(host, upstream.port, scheme="http")).status == 200
    else:
        with pytest.raises(UpstreamForbidden):
            await through_the_proxy(host, upstream.port, scheme="http")
        assert not upstream.exchanges


# --- Certificates --------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of a test")])
        self.path = folder / "authority.pem"
        certificate = self._certificate(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        """The context of a server with a certificate for these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = self._certificate(subject, key, alternatives, expired=expired)
        path = self._folder / f"{names[0]}.pem"
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
        *,
        expired: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        end = now + datetime.timedelta(days=-1 if expired else 1)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(end)
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that this process trusts, as an operator's environment would have it."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    # aiohttp makes its context when it is imported, before the variable was set.
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", ssl.create_default_context())
    return authority


async def test_connection_of_one_name_is_never_used_for_another(
    authority: Authority, resolve: Resolver, settings: Settings
) -> None:
    """Two names on one address with a certificate for the first: the second fails, and its key goes nowhere."""
    resolve(["127.0.0.1"])
    with Upstream(tls=authority.server("first.example")) as server:
        settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"{name}.example:{server.port}" for name in ("first", "second")]
        running = transport.Upstream()

        async def ask(name: str) -> int:
            origin = Origin("https", name, server.port)
            answer = await running.send(
                origin, "GET", f"/{name}".encode(), [(b"host", name.encode())], key_header(), b""
            )
            while not answer.finished:
                await answer.read()
            answer.close()
            return answer.status

        try:
            assert await ask("first.example") == 200
            for _ in range(3):
                with pytest.raises(UpstreamUnreachable):
                    await ask("second.example")
                assert await ask("first.example") == 200
        finally:
            running.close()
        assert {one.path for one in server.exchanges} == {"/first.example"}
        assert len({id(one.connection) for one in server.exchanges}) == 1  # the first name did keep its connection


def test_key_check_verifies_the_name(authority: Authority, resolve: Resolver, settings: Settings) -> None:
    resolve(["127.0.0.1"])
    with Upstream(tls=authority.server("first.example")) as server:
        settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"{name}.example:{server.port}" for name in ("first", "second")]
        by_the_key_check("first.example", server.port)
        with pytest.raises(KeyUnchecked):
            by_the_key_check("second.example", server.port)
        assert [one.header("host") for one in server.exchanges] == [f"first.example:{server.port}".encode()]


@pytest.mark.parametrize("flaw", ["unknown authority", "expired"])
async def test_certificate_is_verified(
    flaw: str,
    authority: Authority,
    resolve: Resolver,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    resolve(["127.0.0.1"])
    (tmp_path / "other").mkdir()
    issuer = Authority(tmp_path / "other") if flaw == "unknown authority" else authority
    with Upstream(tls=issuer.server("api.example", expired=flaw == "expired")) as server:
        settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"api.example:{server.port}"]
        with pytest.raises(UpstreamUnreachable):
            await through_the_proxy("api.example", server.port)
        url = f"https://api.example:{server.port}/"
        assert await key_check._ask(url, [("Authorization", KEY)], plain=False) == 0
        eventually(lambda: not server.open_connections)
        assert not server.exchanges
        assert not server.malformed


# --- What a person may type ----------------------------------------------------------------------------------------

BAD_DESTINATIONS = [
    # Addresses, however spelt.
    *(f"https://{f'[{address}]' if ':' in address else address}" for address in FORBIDDEN[::6]),
    "https://8.8.8.8",
    "https://[2606:4700::1111]",
    "https://127.1",
    "https://127.0.1",
    "https://2130706433",
    "https://0x7f000001",
    "https://0x7f.1",
    "https://0X7F.0.0.1",
    "https://0177.0.0.1",
    "https://017700000001",
    "https://0",
    "https://0x",
    "https://1.2.3",
    "https://999.1",
    "https://127.0.0.1.",
    "https://127.1.",
    "https://[::1%25lo]",
    "https://[fe80::1%25eth0]",
    "https://[::ffff:127.0.0.1]",
    "https://[v1.x]",
    "https://[::1",
    "https://\uff11\uff12\uff17.\uff10.\uff10.\uff11",
    "https://①②⑦.⓪.⓪.①",
    "https://127。0。0。1",
    "https://%31%32%37.0.0.1",
    # Names of this machine, of its network, and of what clouds have there.
    "https://localhost",
    "https://LOCALHOST",
    "https://localhost.",
    "https://ⓛocalhost",
    "https://local\u00adhost",
    "https://api.localhost",
    "https://intranet",
    "https://metadata",
    "https://metadata.google.internal",
    "https://metadata.google.internal.",
    "https://METADATA.GOOGLE.INTERNAL",
    "https://instance-data.ec2.internal",
    "https://printer.local",
    "https://router.lan",
    "https://nas.home.arpa",
    "https://wiki.corp",
    "https://wiki.intranet",
    # A user name that looks like the host, and what parsers disagree on.
    "https://api.openai.com@127.0.0.1",
    "https://user:pass@api.example.com",
    "https://@api.example.com",
    "https://api.example.com:443@127.0.0.1",
    "https://127.0.0.1#@api.example.com",
    "https://api.example.com\\@127.0.0.1",
    "https://api.example.com%40127.0.0.1",
    "https://api.example.com%2f127.0.0.1",
    "https://api.example.com\t.evil.example",
    "https://api.example.com\n127.0.0.1",
    "https://api.example.com\x00.evil.example",
    "https://api.example.com evil.example",
    "https://api..example.com",
    "https://.example.com",
    "https://-api.example.com;x",
    "https://api.example.com,127.0.0.1",
    "https://" + "a" * 64 + ".example.com",
    "https://" + "a.b" * 90 + ".example.com",
    "https://*.example.com",
    "https://api.example.com\u2044127.0.0.1",
    # Other schemes, other ports, more than a place.
    "http://api.example.com",
    "ftp://api.example.com",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_x",
    "unix:///run/x.sock",
    "javascript:alert(1)",
    "//api.example.com",
    "https:api.example.com",
    "https:///api.example.com",
    "https://",
    "api.example.com",
    "https://api.example.com:80",
    "https://api.example.com:22",
    "https://api.example.com:8443",
    "https://api.example.com:0",
    "https://api.example.com:99999",
    "https://api.example.com:443x",
    "https://api.example.com:-443",
    "https://api.example.com/v1?x=1",
    "https://api.example.com/v1?",
    "https://api.example.com/#x",
    "https://api.example.com/../x",
    "https://api.example.com/./x",
    "https://api.example.com//x",
    "https://api.example.com/%2e%2e/x",
    "https://api.example.com/a\\b",
    "https://api.example.com/a;b",
    "https://api.example.com/a b",
]


@pytest.mark.parametrize("url", BAD_DESTINATIONS, ids=ascii)
def test_destination_is_refused(url: str, settings: Settings, resolve: Resolver) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = []
    resolve([PUBLIC])
    with pytest.raises(InvalidDestination):
        destinations.check(url)


@pytest.mark.parametrize("address", FORBIDDEN)
def test_name_with_a_forbidden_address_is_refused(address: str, settings: Settings, resolve: Resolver) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = []
    resolve([PUBLIC, address])
    with pytest.raises(InvalidDestination):
        destinations.check("https://127-0-0-1.example.com")


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("https://api.example.com", "https://api.example.com"),
        (" https://API.Example.com/ ", "https://api.example.com"),
        ("HTTPS://api.example.com.", "https://api.example.com"),
        ("https://api.example.com:443/v1/", "https://api.example.com/v1"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://api。example。com", "https://api.example.com"),
        ("https://my-model.eu-1.example.com/openai/v1.2", "https://my-model.eu-1.example.com/openai/v1.2"),
    ],
)
def test_destination_is_kept_in_its_one_spelling(typed: str, kept: str, settings: Settings, resolve: Resolver) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = []
    resolve([PUBLIC])
    assert destinations.check(typed).url == kept
