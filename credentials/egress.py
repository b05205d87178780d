"""Which addresses Strake connects to: public ones, and the holes an operator has opened.

The check belongs to the moment of connecting, on the resolved address, so that neither DNS rebinding nor an odd
spelling nor a forgotten route gets around it. `Guard` plugs into aiohttp's connector (resolver and socket factory);
this module itself imports no HTTP client.

`ipaddress.is_global` is not enough: it calls Azure's 168.63.129.16, NAT64, 6to4, multicast and others global, and
misses 100.64.0.0/10. So an address passes only if it is global and none of `_DENIED`; of an IPv4-mapped and of a NAT64
address, the IPv4 address inside has to.
"""

from __future__ import annotations

import asyncio
import codecs
import ipaddress
import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from django.core.exceptions import ImproperlyConfigured

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

HTTPS_PORT = 443

codecs.lookup("idna")  # at the start: else the first look-up of a name reads it from the disk, in some request

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


class ForbiddenAddress(OSError):
    """An address Strake does not connect to. An `OSError`, as connectors expect of a failed connect."""


def is_public(address: IPAddress) -> bool:
    """Whether `address`, and every IPv4 address embedded in it, is an ordinary public unicast address."""
    return all(
        candidate.is_global
        and not candidate.is_multicast
        and not candidate.is_reserved
        and not any(candidate in network for network in _DENIED if network.version == candidate.version)
        for candidate in _spellings(address)
    )


def _spellings(address: IPAddress) -> Iterator[IPAddress]:
    if isinstance(address, IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        # `is_global` of the mapped form differs between Python versions: only the address inside decides.
        yield address.ipv4_mapped
        return
    if address in _NAT64:
        yield IPv4Address(address.packed[12:])
        return
    yield address


class Holes:
    """`STRAKE_ALLOWED_PRIVATE_UPSTREAMS`: CIDRs and host:port pairs that the operator has opened.

    Raises `ImproperlyConfigured` for a word that is neither.
    """

    def __init__(self, words: Iterable[str]) -> None:
        networks: list[IPNetwork] = []
        pairs: set[tuple[str, int]] = set()
        for word in words:
            try:
                networks.append(ipaddress.ip_network(word))
                continue
            except ValueError:
                pass
            host, separator, port = word.rpartition(":")
            if not (separator and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
                raise ImproperlyConfigured(
                    f"STRAKE_ALLOWED_PRIVATE_UPSTREAMS: {word!r} is neither a network like 10.1.0.0/16 nor host:port."
                )
            pairs.add((host.strip("[]").lower(), int(port)))
        self.networks = tuple(networks)
        self.pairs = frozenset(pairs)

    def has_host(self, host: str, port: int) -> bool:
        return (host.strip("[]").lower(), port) in self.pairs

    def has_address(self, address: IPAddress) -> bool:
        unmapped = getattr(address, "ipv4_mapped", None) or address
        return any(unmapped in network for network in self.networks if network.version == unmapped.version)


class Guard:
    """Resolves and connects for one HTTP client, and lets nothing through that it may not.

    Without a hole that is TLS to port 443 of a public address. `plain` says that the connections are without TLS:
    these go through holes only.
    """

    def __init__(self, holes: Holes, *, plain: bool) -> None:
        self.holes = holes
        self.plain = plain
        self._open_pairs: set[tuple[str, int]] = set()

    def allows(self, address: IPAddress, port: int) -> bool:
        return self.holes.has_address(address) or (not self.plain and port == HTTPS_PORT and is_public(address))

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[dict[str, Any]]:
        """aiohttp's resolver: all addresses of `host`. Raises `ForbiddenAddress` if any of them is forbidden.

        All must pass: an attacker who controls the name could otherwise mix one public address in.
        """
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        named = self.holes.has_host(host, port)
        found = []
        for address_family, _, protocol, _, sockaddr in infos:
            address = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
            if named:
                self._open_pairs.add((str(address), port))
            elif not self.allows(address, port):
                raise ForbiddenAddress(f"{host} is not a public address")
            found.append(
                {
                    "hostname": host,
                    "host": str(address),
                    "port": port,
                    "family": address_family,
                    "proto": protocol,
                    "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                }
            )
        return found

    async def close(self) -> None:
        """Part of aiohttp's resolver interface; nothing to close."""

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        """aiohttp's socket factory: the last look at the address that is really dialled, IP literals included."""
        family, kind, protocol, _, sockaddr = info
        address = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
        port = int(sockaddr[1])
        pair = (str(address), port)
        if not (self.allows(address, port) or pair in self._open_pairs or pair in self.holes.pairs):
            raise ForbiddenAddress("not a public address")
        connection = socket.socket(family, kind, protocol)
        connection.setblocking(False)
        return connection
