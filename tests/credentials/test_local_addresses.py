"""Which addresses are this machine's, and which ports Strake's."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator

import pytest
from pytest_django import Settings

from credentials import local_addresses
from credentials.egress import EgressPolicy, ForbiddenAddress, Reason
from credentials.egress_allowlist import EgressAllowlist
from strake.processes import listen


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_addresses, "_listening", set())
    monkeypatch.setattr(local_addresses, "_kept", {})


def interface_addresses() -> Iterator[str]:
    """The addresses from which this machine would send to the internet, if there are any. Nothing is sent."""
    for family, remote in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            if not probe.connect_ex((remote, 9)):
                yield probe.getsockname()[0]


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.8.9.1", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"]
)
def test_loopback_is_own(address: str) -> None:
    assert local_addresses.is_own(ipaddress.ip_address(address))


def test_addresses_of_interfaces_are_own() -> None:
    for address in interface_addresses():
        assert local_addresses.is_own(ipaddress.ip_address(address))
        if ":" not in address:
            assert local_addresses.is_own(ipaddress.ip_address(f"::ffff:{address}"))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "192.0.2.1", "10.255.255.254", "2001:4860:4860::8888", "::ffff:8.8.8.8"]
)
def test_addresses_of_others_are_not_own(address: str) -> None:
    assert not local_addresses.is_own(ipaddress.ip_address(address))


def test_number_of_kept_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_addresses, "MAX_KEPT", 3)
    for number in range(10):
        local_addresses.is_own(ipaddress.ip_address(f"192.0.2.{number}"))
    assert len(local_addresses._kept) <= 3


def refusal(address: str, port: int, *entries: str) -> Reason | None:
    policy = EgressPolicy(EgressAllowlist(entries), plain=port != 443)
    try:
        policy.check("a.example", port, [address])
    except ForbiddenAddress as error:
        return error.reason
    return None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"])
def test_no_hole_leads_to_the_socket_of_strake(address: str, settings: Settings) -> None:
    holes = ("127.0.0.0/8", "::/0", "0.0.0.0/0", "a.example:8123", "a.example:8124", "localhost:8124")
    settings.STRAKE_BIND = listen.parse("0.0.0.0:8123,unix:/run/x.sock", port=8000)
    assert refusal(address, 8123, *holes) is Reason.STRAKE
    assert refusal(address, 8124, *holes) is None
    with socket.create_server(("127.0.0.1", 0)) as passed_by_systemd:
        port = passed_by_systemd.getsockname()[1]
        assert refusal(address, port, *holes[:3]) is None
        local_addresses.add_listeners([passed_by_systemd])
        assert refusal(address, port, *holes[:3]) is Reason.STRAKE


def test_socket_is_refused_even_if_it_was_not_checked(settings: Settings) -> None:
    settings.STRAKE_BIND = listen.parse("127.0.0.1:8123", port=8000)
    policy = EgressPolicy(EgressAllowlist(["127.0.0.0/8"]), plain=True)
    with pytest.raises(ForbiddenAddress):
        policy.create_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 8123)))


def test_own_public_address_is_refused_on_443(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test machine has a public address, so the system's answer is replaced."""
    monkeypatch.setattr(local_addresses, "_routes_to_itself", lambda address: str(address) in {"8.8.4.4", "2600::1"})
    for address in ("8.8.4.4", "::ffff:8.8.4.4", "64:ff9b::808:404", "2600::1"):
        if not address.startswith("64:"):
            assert refusal(address, 443) is Reason.OWN_HOST
            assert refusal(address, 443, "8.8.4.4:443", "[2600::1]:443") is None
    assert refusal("8.8.8.8", 443) is None
