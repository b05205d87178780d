"""The egress policy: no forbidden address is connected to, however a name or a number is spelled."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.egress import AddressInfo, EgressPolicy, ForbiddenAddress, Reason, is_public
from credentials.egress_allowlist import EgressAllowlist
from credentials.resolver import Resolver

FORBIDDEN = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.1.2.3 127.255.255.254
168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1
192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255
240.0.0.1 255.255.255.255
:: ::1 ::2 ::127.0.0.1 ::10.0.0.1 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0.0.0.0
::ffff:100.100.100.200 ::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8 64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::a9fe:a9fe
64:ff9b::168.63.129.16 64:ff9b:1::1 64:ff9b:1::8.8.8.8 100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:db8::1
2001:10::1 2001:20::1 2002:7f00:1::1 2002:a00:1::1 2002:808:808::1 3fff::1 5f00::1 fc00::1 fd00::1 fd00:ec2::254
fe80::1 fec0::1 ff02::1 ff0e::1
""".split()  # noqa: SIM905  (one address per line would be pages)
PUBLIC = """
1.1.1.1 8.8.8.8 9.9.9.9 104.18.7.192 172.15.255.255 172.32.0.1 100.63.255.255 100.128.0.1 192.0.1.1 198.17.255.255
223.255.255.255 2606:4700:4700::1111 2001:4860:4860::8888 2a00:1450:4001:800::200e ::ffff:8.8.8.8 64:ff9b::8.8.8.8
""".split()  # noqa: SIM905
# Names that getaddrinfo of this system resolves to 127.0.0.1.
SPELLINGS = """
127.0.0.1 127.1 127.0.1 0x7f000001 0x7f.1 0177.0.0.1 0177.1 2130706433 017700000001 0x7f.0x0.0x0.0x1 localhost LOCALHOST
0 0.0.0.0 0x0
""".split()  # noqa: SIM905


def test_corpora_are_large_enough() -> None:
    assert len(set(FORBIDDEN)) + len(set(SPELLINGS)) >= 80


@pytest.mark.parametrize("address", FORBIDDEN)
def test_address_is_forbidden(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_address_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_embedding_never_makes_an_address_public(address: ipaddress.IPv4Address) -> None:
    for prefix in ("::ffff:", "64:ff9b::", "::", "::ffff:0:"):
        wrapped = ipaddress.ip_address(f"{prefix}{address}")
        assert not is_public(wrapped) or is_public(address)


# --- Connecting, with a listener that must not be reached ------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens on 127.0.0.1."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        listening.setblocking(False)
        yield listening


def assert_no_connection(listening: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        listening.accept()


def resolve(policy: EgressPolicy, host: str, port: int) -> list[AddressInfo]:
    """Do as both clients do."""
    return policy.check(host, port, Resolver().resolve(host, None, seconds=10))


def connect(policy: EgressPolicy, host: str, port: int) -> None:
    for info in resolve(policy, host, port):
        with policy.create_socket(info) as connection:
            connection.connect(info[4])


@pytest.mark.parametrize("host", SPELLINGS)
@pytest.mark.parametrize("plain", [True, False])
def test_no_spelling_of_loopback_is_reached(host: str, plain: bool, listener: socket.socket) -> None:
    policy = EgressPolicy(EgressAllowlist([]), plain=plain)
    with pytest.raises(ForbiddenAddress):
        connect(policy, host, listener.getsockname()[1])
    assert_no_connection(listener)


def info(address: str, port: int) -> AddressInfo:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return (family, socket.SOCK_STREAM, 6, "", (address, port))


@pytest.mark.parametrize("address", FORBIDDEN)
def test_no_socket_for_a_forbidden_address(address: str) -> None:
    """The last check covers addresses that were never resolved."""
    for port in (443, 80, 8080):
        with pytest.raises(ForbiddenAddress):
            EgressPolicy(EgressAllowlist([]), plain=False).create_socket(info(address, port))


@pytest.mark.parametrize("port", [22, 25, 80, 444, 6379, 8443])
def test_no_socket_for_another_port(port: int) -> None:
    with pytest.raises(ForbiddenAddress):
        EgressPolicy(EgressAllowlist([]), plain=False).create_socket(info("8.8.8.8", port))


def test_no_socket_without_tls() -> None:
    with pytest.raises(ForbiddenAddress):
        EgressPolicy(EgressAllowlist([]), plain=True).create_socket(info("8.8.8.8", 443))


@pytest.mark.parametrize("address", PUBLIC)
def test_socket_for_a_public_address(address: str) -> None:
    with EgressPolicy(EgressAllowlist([]), plain=False).create_socket(info(address, 443)) as created:
        assert created.type == socket.SOCK_STREAM


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`scripted([A, B], [C])` is a DNS server that returns A and B at first, and C from then on."""

    def script(*responses: list[str]) -> None:
        remaining = list(responses)

        def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[AddressInfo]:
            addresses = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            return [info(address, port) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return script


def test_rebound_name_is_not_reached(scripted: Callable[..., None], listener: socket.socket) -> None:
    """The name is public at first, and loopback afterwards. Only checked addresses are returned."""
    scripted(["8.8.8.8"], ["127.0.0.1"])
    policy = EgressPolicy(EgressAllowlist([]), plain=False)
    addresses = resolve(policy, "rebinding.example", 443)
    assert [address[4] for address in addresses] == [("8.8.8.8", 443)]
    with pytest.raises(ForbiddenAddress):
        resolve(policy, "rebinding.example", 443)
    with pytest.raises(ForbiddenAddress):
        connect(policy, "rebinding.example", listener.getsockname()[1])
    assert_no_connection(listener)


@pytest.mark.parametrize("bad", ["127.0.0.1", "10.0.0.1", "::1", "169.254.169.254", "64:ff9b::7f00:1", "fe80::1"])
def test_one_forbidden_address_forbids_the_name(bad: str, scripted: Callable[..., None]) -> None:
    scripted(["8.8.8.8", bad, "1.1.1.1"])
    with pytest.raises(ForbiddenAddress):
        resolve(EgressPolicy(EgressAllowlist([]), plain=False), "mixed.example", 443)


# --- The allowlist ---------------------------------------------------------------------------------------------------


def test_listed_network_allows_nothing_else(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    policy = EgressPolicy(EgressAllowlist(["127.0.0.1/32"]), plain=True)
    connect(policy, "127.0.0.1", port)
    listener.accept()[0].close()
    for other in ("127.0.0.2", "10.0.0.1", "8.8.8.8"):
        with pytest.raises(ForbiddenAddress):
            connect(policy, other, port)


def test_listed_name_allows_its_port_only(scripted: Callable[..., None]) -> None:
    scripted(["10.1.2.3"])
    policy = EgressPolicy(EgressAllowlist(["models.lan:8080"]), plain=True)
    for address in resolve(policy, "models.lan", 8080):
        policy.create_socket(address).close()
    for host, port in (("models.lan", 8081), ("other.lan", 8080), ("10.1.2.3", 8080)):
        with pytest.raises(ForbiddenAddress):
            resolve(EgressPolicy(EgressAllowlist(["models.lan:8080"]), plain=True), host, port)


def test_allowed_address_of_a_name_is_not_open_to_the_next(scripted: Callable[..., None]) -> None:
    """What one connection may use says nothing about another owner's."""
    scripted(["10.1.2.3"])
    allowlist = EgressAllowlist(["models.lan:8080=alice@example.org"])
    (info,) = resolve(EgressPolicy(allowlist, plain=True, owner_email="alice@example.org"), "models.lan", 8080)
    with pytest.raises(ForbiddenAddress):
        EgressPolicy(allowlist, plain=True, owner_email="mallory@example.org").create_socket(info)


def test_reason_says_what_was_refused(scripted: Callable[..., None]) -> None:
    allowlist = EgressAllowlist(["10.1.0.0/16:8000=@example.org"])
    for address, port, plain, reason in (
        ("10.1.2.3", 8000, True, Reason.OTHERS),
        ("10.1.2.3", 8001, True, Reason.PRIVATE),
        ("10.2.2.3", 8000, True, Reason.PRIVATE),
        ("8.8.8.8", 80, True, Reason.NOT_HTTPS),
        ("8.8.8.8", 8443, False, Reason.NOT_HTTPS),
    ):
        policy = EgressPolicy(allowlist, plain=plain, owner_email="mallory@elsewhere.example")
        with pytest.raises(ForbiddenAddress) as caught:
            policy.check("a.example", port, [address])
        assert caught.value.reason is reason
