"""`STRAKE_ALLOWED_PRIVATE_UPSTREAMS`: the holes that an operator opens in the egress policy."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from django.core.exceptions import ImproperlyConfigured

from accounts.addresses import IPAddress

SETTING = "STRAKE_ALLOWED_PRIVATE_UPSTREAMS"

IPNetwork = IPv4Network | IPv6Network

_NETWORK = re.compile(r"\[?([0-9a-fA-F.:]+/[0-9]+)\]?(?::([0-9-]+))?")
_PAIR = re.compile(r"(\[[0-9a-fA-F.:]+\]|[^\s:/@=\[\]]+):([0-9-]+)")
_OWNER = re.compile(r"[^\s@=]*@[^\s@=]+")
_ALL_PORTS = (1, 65535)
_LOOPBACK = (ipaddress.ip_network("127.0.0.1/32"), ipaddress.ip_network("::1/128"))


class Listing(Enum):
    """What the allowlist says about a destination for a person."""

    ABSENT = 0
    OTHERS = 1  # only other people may use it
    ALLOWED = 2


@dataclass(frozen=True, slots=True)
class Hole:
    """One entry: a host name or networks, a range of ports, and who may use it.

    `owner` is empty for everybody, an email address, or `@` and a domain.
    """

    text: str
    host: str
    networks: tuple[IPNetwork, ...]
    ports: tuple[int, int]
    owner: str

    def has_host(self, host: str, port: int) -> bool:
        return bool(self.host) and host == self.host and self._has_port(port)

    def has_address(self, address: IPAddress, port: int) -> bool:
        return self._has_port(port) and any(
            address in network for network in self.networks if network.version == address.version
        )

    def is_for(self, email: str) -> bool:
        if self.owner.startswith("@"):
            return email.endswith(self.owner)
        return not self.owner or email == self.owner

    @property
    def has_all_ports(self) -> bool:
        return self.ports == _ALL_PORTS

    def _has_port(self, port: int) -> bool:
        return self.ports[0] <= port <= self.ports[1]


class EgressAllowlist:
    """The entries of the setting. Raises `ImproperlyConfigured` for one that cannot be understood.

    An entry is a network, `10.1.0.0/16` or `10.1.0.0/16:8000-8100`, or `host:port`. `=alice@example.org` or
    `=@example.org` behind it reserves it for a person or a domain. Several entries may name the same destination.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self.holes = tuple(_parse(entry) for entry in entries)

    def of_host(self, host: str, port: int, email: str) -> Listing:
        """Look a host name up, as written in a destination."""
        name = host.strip("[]").lower()
        return _best(hole.is_for(email) for hole in self.holes if hole.has_host(name, port))

    def of_address(self, address: IPAddress, port: int, email: str) -> Listing:
        """Look an address up. Of an IPv4-mapped one, the IPv4 address counts."""
        unmapped = getattr(address, "ipv4_mapped", None) or address
        return _best(hole.is_for(email) for hole in self.holes if hole.has_address(unmapped, port))


def _best(allowed: Iterable[bool]) -> Listing:
    return max(
        (Listing.ALLOWED if is_allowed else Listing.OTHERS for is_allowed in allowed),
        default=Listing.ABSENT,
        key=lambda listing: listing.value,
    )


def _parse(entry: str) -> Hole:
    target, separator, owner = entry.partition("=")
    owner = owner.strip().lower()
    if separator and not _OWNER.fullmatch(owner):
        raise ImproperlyConfigured(
            f"{SETTING}: {entry!r} must end in =name@example.org for a person, or =@example.org for a domain."
        )
    hole = _parse_network(entry, target.strip(), owner) or _parse_pair(entry, target.strip(), owner)
    if hole is None:
        raise ImproperlyConfigured(
            f"{SETTING}: {entry!r} is neither a network like 10.1.0.0/16 nor host:port. Ports can follow a network, "
            "as in 10.1.0.0/16:8000-8100."
        )
    return hole


def _parse_network(entry: str, target: str, owner: str) -> Hole | None:
    found = _NETWORK.fullmatch(target)
    try:
        network = ipaddress.ip_network(found[1] if found else target)
    except ValueError:
        return None
    ports = _parse_ports(found[2]) if found and found[2] else _ALL_PORTS
    return None if ports is None else Hole(entry, "", (network,), ports, owner)


def _parse_pair(entry: str, target: str, owner: str) -> Hole | None:
    found = _PAIR.fullmatch(target)
    ports = _parse_ports(found[2]) if found else None
    if found is None or ports is None:
        return None
    host = found[1].strip("[]").lower()
    try:
        return Hole(entry, "", (ipaddress.ip_network(host),), ports, owner)
    except ValueError:
        # Local servers listen on either address, and people write any of the three.
        return Hole(entry, host, _LOOPBACK if host == "localhost" else (), ports, owner)


def _parse_ports(text: str) -> tuple[int, int] | None:
    low, separator, high = text.partition("-")
    if not low.isdigit() or (separator and not high.isdigit()) or len(text) > 11:
        return None
    ports = int(low), int(high if separator else low)
    return ports if 0 < ports[0] <= ports[1] < 65536 else None
