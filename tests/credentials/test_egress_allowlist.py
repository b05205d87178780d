"""Entries of STRAKE_ALLOWED_PRIVATE_UPSTREAMS: what they open, at which ports, and for whom."""

from __future__ import annotations

import ipaddress

import pytest
from django.core.exceptions import ImproperlyConfigured

from credentials.egress_allowlist import EgressAllowlist, Listing

ALLOWED, OTHERS, ABSENT = Listing.ALLOWED, Listing.OTHERS, Listing.ABSENT


@pytest.mark.parametrize(
    ("entry", "address", "port", "listing"),
    [
        ("10.1.0.0/16", "10.1.2.3", 1, ALLOWED),
        ("10.1.0.0/16", "10.1.2.3", 65535, ALLOWED),
        ("10.1.0.0/16", "10.2.2.3", 443, ABSENT),
        ("10.1.0.0/16", "::ffff:10.1.2.3", 443, ALLOWED),
        ("10.1.0.0/16:8000", "10.1.2.3", 8000, ALLOWED),
        ("10.1.0.0/16:8000", "10.1.2.3", 8001, ABSENT),
        ("10.1.0.0/16:8000-8100", "10.1.2.3", 8000, ALLOWED),
        ("10.1.0.0/16:8000-8100", "10.1.2.3", 8100, ALLOWED),
        ("10.1.0.0/16:8000-8100", "10.1.2.3", 7999, ABSENT),
        ("10.1.0.0/16:8000-8100", "10.1.2.3", 8101, ABSENT),
        ("fd00::/8", "fd00::1", 80, ALLOWED),
        ("fd00::/8:8000", "fd00::1", 8000, ALLOWED),
        ("fd00::/8:8000", "fd00::1", 80, ABSENT),
        ("[fd00::/8]:8000", "fd00::1", 8000, ALLOWED),
        ("[fd00::/8]:8000", "fd00::1", 80, ABSENT),
        ("10.1.2.3", "10.1.2.3", 80, ALLOWED),
        ("10.1.2.3:80", "10.1.2.3", 80, ALLOWED),
        ("10.1.2.3:80", "10.1.2.3", 81, ABSENT),
        ("[fd00::1]:80", "fd00::1", 80, ALLOWED),
        ("localhost:11434", "127.0.0.1", 11434, ALLOWED),
        ("localhost:11434", "::1", 11434, ALLOWED),
        ("localhost:11434", "127.0.0.2", 11434, ABSENT),
        ("localhost:11434", "::1", 80, ABSENT),
        ("ollama.lan:11434", "127.0.0.1", 11434, ABSENT),
    ],
)
def test_entry_opens_these_addresses_and_ports(entry: str, address: str, port: int, listing: Listing) -> None:
    assert EgressAllowlist([entry]).of_address(ipaddress.ip_address(address), port, "") is listing


@pytest.mark.parametrize(
    ("entry", "host", "port", "listing"),
    [
        ("ollama.lan:11434", "ollama.lan", 11434, ALLOWED),
        ("OLLAMA.lan:11434", "ollama.LAN", 11434, ALLOWED),
        ("ollama.lan:11434", "ollama.lan", 11435, ABSENT),
        ("ollama.lan:11434-11436", "ollama.lan", 11435, ALLOWED),
        ("ollama.lan:11434", "x.ollama.lan", 11434, ABSENT),
        ("localhost:11434", "localhost", 11434, ALLOWED),
        ("10.1.0.0/16:80", "", 80, ABSENT),
    ],
)
def test_entry_opens_these_hosts(entry: str, host: str, port: int, listing: Listing) -> None:
    assert EgressAllowlist([entry]).of_host(host, port, "") is listing


@pytest.mark.parametrize("target", ["ollama.lan:80", "10.1.0.0/16", "10.1.0.0/16:80", "fd00::/8", "[fd00::/8]:80"])
@pytest.mark.parametrize(
    ("owner", "email", "listing"),
    [
        ("=alice@example.org", "alice@example.org", ALLOWED),
        ("=Alice@Example.org", "alice@example.org", ALLOWED),
        ("=alice+ci@example.org", "alice+ci@example.org", ALLOWED),
        ("=alice@example.org", "mallory@example.org", OTHERS),
        ("=alice@example.org", "malice@example.org", OTHERS),
        ("=alice@example.org", "", OTHERS),
        ("=@example.org", "bob@example.org", ALLOWED),
        ("=@example.org", "bob@sub.example.org", OTHERS),
        ("=@example.org", "bob@badexample.org", OTHERS),
        ("=@example.org", "", OTHERS),
        ("", "", ALLOWED),
    ],
)
def test_entry_is_for_its_owner(target: str, owner: str, email: str, listing: Listing) -> None:
    allowlist = EgressAllowlist([target + owner])
    inside = ipaddress.ip_address("fd00::1" if "fd00" in target else "10.1.2.3")
    found = allowlist.of_host("ollama.lan", 80, email), allowlist.of_address(inside, 80, email)
    assert listing in found


def test_entries_for_one_destination_add_up() -> None:
    allowlist = EgressAllowlist(["ollama.lan:80=alice@example.org", "ollama.lan:80=bob@example.org"])
    listings = [allowlist.of_host("ollama.lan", 80, f"{name}@example.org") for name in ("alice", "bob", "mallory")]
    assert listings == [ALLOWED, ALLOWED, OTHERS]


@pytest.mark.parametrize(
    "entry",
    [
        *("", "nonsense", "host:", ":80", "host:0", "host:99999", "host:x", "10.0.0.0/99", "10.0.0.0/8:", "host:1-"),
        *("10.0.0.0/8:0", "10.0.0.0/8:9-8", "10.0.0.0/8:1-65536", "10.0.0.0/8:x", "10.0.0.1/8", "a@b.example:80"),
        *("host:80=", "host:80=alice", "host:80=alice@", "host:80=a@b@c", "host:80=a@b.c=x@y.z", "=alice@example.org"),
        *("host:80=example.org", "host:80 =a b@example.org", "http://host:80", "[fd00::1:80", "host:-80"),
    ],
)
def test_entry_is_refused(entry: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="STRAKE_ALLOWED_PRIVATE_UPSTREAMS"):
        EgressAllowlist([entry])
