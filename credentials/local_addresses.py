"""Which addresses and ports are those of this machine and of this Strake."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from time import monotonic

from django.conf import settings

from accounts.addresses import IPAddress

KEEP_SECONDS = 30.0
MAX_KEPT = 4096

_listening: set[int] = set()
_kept: dict[IPAddress, tuple[float, bool]] = {}


def add_listeners(listeners: Iterable[socket.socket]) -> None:
    """Note the sockets that this process and its children listen on, also those that systemd passed."""
    _listening.update(
        listener.getsockname()[1] for listener in listeners if listener.family in {socket.AF_INET, socket.AF_INET6}
    )


def is_strake(address: IPAddress, port: int) -> bool:
    """True if a connection could reach a socket that Strake itself listens on, by any address of this machine."""
    bound = (getattr(listener, "port", None) for listener in [*settings.STRAKE_BIND, *settings.STRAKE_METRICS_BIND])
    return (port in _listening or port in bound) and is_own(address)


def is_own(address: IPAddress) -> bool:
    """True if `address` is loopback, unspecified, or an address of one of this machine's interfaces.

    Addresses that a router translates to this machine look like any other. Kept for `KEEP_SECONDS`.
    """
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback or address.is_unspecified:
        return True
    kept = _kept.get(address)
    if kept is None or kept[0] < monotonic():
        if len(_kept) >= MAX_KEPT:
            _kept.clear()
        kept = _kept[address] = (monotonic() + KEEP_SECONDS, _routes_to_itself(address))
    return kept[1]


def _routes_to_itself(address: IPAddress) -> bool:
    """Ask the system for the source address of packets to `address`: its own addresses are their own source.

    Connecting a UDP socket sends nothing. Binding to the address would succeed for every address on machines with
    `ip_nonlocal_bind`.
    """
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.setblocking(False)
            if probe.connect_ex((str(address), 9)):
                return False
            source = probe.getsockname()[0]
    except OSError:
        return False
    return ipaddress.ip_address(source.partition("%")[0]) == address
