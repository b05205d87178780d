"""The addresses that Strake connects to: public ones of other machines, and those in the operator's allowlist.

`EgressPolicy` checks the resolved address at the moment of connecting. A check of the name alone could be bypassed by
DNS rebinding, by unusual spellings of an address, or by a code path that skips it.

`ipaddress.is_global` is not enough: it is true for Azure's 168.63.129.16, for 192.0.0.192, and for NAT64, 6to4 and
multicast addresses. An address passes only if it is global and in none of `_DENIED`.
"""

from __future__ import annotations

import codecs
import ipaddress
import re
import socket
from collections.abc import Iterable
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

from accounts.addresses import IPAddress
from credentials import local_addresses
from credentials.egress_allowlist import EgressAllowlist, IPNetwork, Listing

# An item of what `socket.getaddrinfo` returns: family, type, protocol, canonical name, socket address.
AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]

HTTPS_PORT = 443

codecs.lookup("idna")  # loads the codec at startup, instead of from the disk during the first look-up of a name

_DENIED: tuple[IPNetwork, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # "this network": Linux connects it to loopback
        "100.64.0.0/10",  # carrier-grade NAT; a cloud's metadata service lives there
        "168.63.129.16/32",  # Azure's wire server
        "192.0.0.0/24",  # IETF protocol assignments; a cloud's metadata service lives there
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",  # benchmarking
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, with 255.255.255.255
        "::/96",  # IPv4-compatible, unspecified, loopback
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b:1::/48",  # local NAT64
        "100::/64",  # discard
        "2002::/16",  # 6to4
        "2001::/23",  # Teredo, ORCHID and other protocol assignments
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fc00::/7",  # unique local
        "fe80::/10",  # link local
        "fec0::/10",  # site local
        "ff00::/8",  # multicast
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_PRIVATE_SUFFIXES = (".local", ".internal", ".localhost", ".lan", ".home.arpa", ".intranet", ".corp")


class Reason(Enum):
    """Why the egress policy forbids a connection."""

    STRAKE = "strake"  # a socket that Strake itself listens on
    OWN_HOST = "own_host"  # another server on this machine
    OTHERS = "others"  # the operator allows it for other people
    PRIVATE = "private"
    NOT_HTTPS = "not_https"  # another port than 443, or no TLS


class ForbiddenAddress(OSError):
    """The egress policy forbids an address. An `OSError`, like any other failure to connect."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def is_public(address: IPAddress) -> bool:
    """True if `address` is a public unicast address. Of an IPv4-mapped or NAT64 address, the embedded one decides."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            # `is_global` of the mapped form differs between Python versions.
            address = address.ipv4_mapped
        elif address in _NAT64:
            address = IPv4Address(address.packed[12:])
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _DENIED if network.version == address.version)
    )


def is_private_name(name: str) -> bool:
    """True if no public server has this name, or if it may be an IPv4 address: 127.1, 0x7f.1 or 0177.0.0.1."""
    last = name.rpartition(".")[2]
    return (
        "." not in name or name.endswith(_PRIVATE_SUFFIXES) or re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)", last) is not None
    )


class EgressPolicy:
    """What one connection of an owner may lead to. Raises `ForbiddenAddress` for everything that is not allowed.

    Allowed are TLS connections to port 443 of public addresses, and what the allowlist opens for `owner_email`. With
    `plain`, the connection is without TLS, and only the allowlist counts. Never allowed is a socket that Strake itself
    listens on. Other ports of this machine need an entry in the allowlist, even at its public addresses.
    """

    def __init__(self, allowlist: EgressAllowlist, *, plain: bool, owner_email: str = "") -> None:
        self._allowlist = allowlist
        self._plain = plain
        self._owner_email = owner_email
        self._named: set[tuple[IPAddress, int]] = set()  # addresses of a name in the allowlist

    def check(self, host: str, port: int, addresses: Iterable[str]) -> list[AddressInfo]:
        """Check the addresses that `host` was resolved to, and return them in the form for connecting.

        All must be allowed, since whoever controls the name could mix a public address in.
        """
        listing = self._allowlist.of_host(host, port, self._owner_email)
        checked: list[AddressInfo] = []
        for text in addresses:
            address = _parse(text)
            if listing is Listing.ALLOWED:
                self._named.add((address, port))
            self._check_address(address, port, is_for_others=listing is Listing.OTHERS)
            family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
            checked.append((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), port)))
        return checked

    def is_public_by_name(self, host: str, port: int) -> bool:
        """Return whether `host` may be left to a proxy that resolves names: only its addresses could forbid it.

        False for what only the allowlist can open, and for what it names. Their addresses have to be checked.
        """
        return (
            not self._plain
            and port == HTTPS_PORT
            and ":" not in host
            and not is_private_name(host)
            and self._allowlist.of_host(host, port, self._owner_email) is Listing.ABSENT
        )

    def create_socket(self, info: AddressInfo) -> socket.socket:
        """Create a socket for connecting to `info`.

        Checks the address that is really connected to, including those that were never resolved.
        """
        family, kind, protocol, _, (host, port, *_) = info
        self._check_address(_parse(host), port)
        return socket.socket(family, kind, protocol)

    def _check_address(self, address: IPAddress, port: int, *, is_for_others: bool = False) -> None:
        if local_addresses.is_strake(address, port):
            raise ForbiddenAddress(Reason.STRAKE)
        if (address, port) in self._named:
            return
        listing = self._allowlist.of_address(address, port, self._owner_email)
        if listing is Listing.ALLOWED:
            return
        if is_for_others or listing is Listing.OTHERS:
            raise ForbiddenAddress(Reason.OTHERS)
        if not is_public(address):
            raise ForbiddenAddress(Reason.PRIVATE)
        if self._plain or port != HTTPS_PORT:
            raise ForbiddenAddress(Reason.NOT_HTTPS)
        if local_addresses.is_own(address):
            raise ForbiddenAddress(Reason.OWN_HOST)


def _parse(host: object) -> IPAddress:
    return ipaddress.ip_address(str(host).partition("%")[0])
