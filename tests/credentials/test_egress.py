"""The guard at connect time: whatever a name or a number is spelled like, no forbidden address is dialled."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from credentials import destinations
from credentials.egress import ForbiddenAddress, Guard, Holes, is_public
from credentials.errors import InvalidDestination

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
# What getaddrinfo of this system reads as 127.0.0.1, and names that lead there.
SPELLINGS = """
127.0.0.1 127.1 127.0.1 0x7f000001 0x7f.1 0177.0.0.1 0177.1 2130706433 017700000001 0x7f.0x0.0x0.0x1 localhost LOCALHOST
0 0.0.0.0 0x0
""".split()  # noqa: SIM905


def test_the_corpora_are_big_enough() -> None:
    assert len(set(FORBIDDEN)) + len(set(SPELLINGS)) >= 80


@pytest.mark.parametrize("address", FORBIDDEN)
def test_address_is_forbidden(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_address_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_ipv4_address_inside_another_is_never_freer_than_itself(address: ipaddress.IPv4Address) -> None:
    for prefix in ("::ffff:", "64:ff9b::", "::", "::ffff:0:"):
        wrapped = ipaddress.ip_address(f"{prefix}{address}")
        assert not is_public(wrapped) or is_public(address)


# --- Dialling, with a listener that must not be reached --------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket on every loopback address of this machine that counts who comes."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        listening.setblocking(False)
        yield listening


def assert_nobody_came(listening: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        listening.accept()


async def dial(guard: Guard, host: str, port: int) -> None:
    """What the transport does: resolve through the guard, and make each socket by it."""
    for one in await guard.resolve(host, port):
        made = guard.socket((one["family"], socket.SOCK_STREAM, one["proto"], "", (one["host"], one["port"])))
        with made:
            await asyncio.get_running_loop().sock_connect(made, (one["host"], one["port"]))


@pytest.mark.parametrize("host", SPELLINGS)
@pytest.mark.parametrize("plain", [True, False])
async def test_no_spelling_of_loopback_is_dialled(host: str, plain: bool, listener: socket.socket) -> None:
    with pytest.raises(ForbiddenAddress):
        await dial(Guard(Holes([]), plain=plain), host, listener.getsockname()[1])
    assert_nobody_came(listener)


@pytest.mark.parametrize("address", FORBIDDEN)
def test_no_socket_is_made_for_a_forbidden_address(address: str) -> None:
    """The last look, for an address that no resolver has been asked about."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in (443, 80, 8080):
        with pytest.raises(ForbiddenAddress):
            Guard(Holes([]), plain=False).socket((family, socket.SOCK_STREAM, 6, "", (address, port)))


@pytest.mark.parametrize("port", [22, 25, 80, 444, 6379, 8443])
def test_no_socket_is_made_for_another_port(port: int) -> None:
    with pytest.raises(ForbiddenAddress):
        Guard(Holes([]), plain=False).socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port)))


def test_no_socket_is_made_without_tls() -> None:
    with pytest.raises(ForbiddenAddress):
        Guard(Holes([]), plain=True).socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 443)))


def answering(*answers: list[str]) -> Any:
    """A resolver that gives these answers one after another, as the owner of a name can."""
    left = list(answers)

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
            for one in addresses
        ]

    return getaddrinfo


async def test_name_that_changes_between_two_looks_is_not_dialled(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    """DNS rebinding: public when asked first, loopback afterwards. Only the checked answer is ever dialled."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", answering(["8.8.8.8"], ["127.0.0.1"]))
    guard = Guard(Holes([]), plain=False)
    found = await guard.resolve("rebinding.example", 443)
    assert [one["host"] for one in found] == ["8.8.8.8"]
    with pytest.raises(ForbiddenAddress):
        await guard.resolve("rebinding.example", 443)
    with pytest.raises(ForbiddenAddress):
        await dial(guard, "rebinding.example", listener.getsockname()[1])
    assert_nobody_came(listener)


@pytest.mark.parametrize("bad", ["127.0.0.1", "10.0.0.1", "::1", "169.254.169.254", "64:ff9b::7f00:1", "fe80::1"])
async def test_one_forbidden_address_among_public_ones_forbids_the_name(
    bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", answering(["8.8.8.8", bad, "1.1.1.1"]))
    with pytest.raises(ForbiddenAddress):
        await Guard(Holes([]), plain=False).resolve("mixed.example", 443)


# --- Holes ---------------------------------------------------------------------------------------------------------


async def test_hole_opens_its_network_and_nothing_else(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    guard = Guard(Holes(["127.0.0.1/32"]), plain=True)
    await dial(guard, "127.0.0.1", port)
    listener.accept()[0].close()
    for other in ("127.0.0.2", "10.0.0.1", "8.8.8.8"):
        with pytest.raises(ForbiddenAddress):
            await dial(guard, other, port)


async def test_hole_by_name_opens_its_port_only(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    guard = Guard(Holes([f"localhost:{port}"]), plain=True)
    found = await guard.resolve("localhost", port)
    assert found
    with pytest.raises(ForbiddenAddress):
        await guard.resolve("localhost", port + 1 if port < 65535 else 1)
    with pytest.raises(ForbiddenAddress):
        await guard.resolve("127.0.0.1", port)


@pytest.mark.parametrize("word", ["", "nonsense", "host:", ":80", "host:0", "host:99999", "host:x", "10.0.0.0/99"])
def test_hole_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(ImproperlyConfigured):
        Holes([word])


# --- The kind check of the form --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *(f"https://[{host}]/" if ":" in host else f"https://{host}/" for host in sorted({*SPELLINGS, *FORBIDDEN})),
        "https://localhost./",
        "http://api.example.com", "ftp://api.example.com", "//api.example.com", "api.example.com", "https://",
        "https://api.example.com:8443", "https://api.example.com:80", "https://user@api.example.com",
        "https://user:password@api.example.com", "https://api.example.com@evil.example", "https://api.example.com?x=1",
        "https://api.example.com#x", "https://api.example.com/?", "https://api.example.com/a/../b",
        "https://api.example.com/%2e%2e", "https://api.example.com/a//b", "https://api.example.com\\@evil.example",
        "https://evil.example\\.api.example.com", "https://api.exa mple.com", "https://intranet", "https://db.internal",
        "https://printer.local", "https://1.2.3.4", "https://[2606:4700::1111]", "https://api.example.com:x",
        "https://-bad-.example.com", "https://" + "a" * 64 + ".com", "https://api..com", "file:///etc/passwd",
        "gopher://api.example.com", "https://api.example.com/ä", "javascript:alert(1)", "https:///x", "https://[::1",
    ],
)  # fmt: skip
def test_destination_is_refused_with_a_reason(url: str) -> None:
    with pytest.raises(InvalidDestination) as caught:
        destinations.check(url)
    assert len(str(caught.value)) > 20
    assert "password" not in str(caught.value).replace("user name and password", "")


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8000", "http://127.0.0.1:8000/p/abcdefghijkl", "http://[::1]:8000", "http://localhost:8000/"],
)
def test_strake_is_no_destination_of_its_own(url: str, settings: Any) -> None:
    """Not even through a hole: an endpoint whose key is its own token would call itself for ever."""
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.0/8", "::1/128", "localhost:8000"]
    with pytest.raises(InvalidDestination, match="circle"):
        destinations.check(url)
    settings.STRAKE_PROXY_DOMAIN = "proxy.example.org"
    with pytest.raises(InvalidDestination, match="circle"):
        destinations.check("https://abcdefghijkl.proxy.example.org")
