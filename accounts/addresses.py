"""E-mail and network addresses, normalised once and the same way everywhere."""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from accounts.errors import InvalidEmail

IPAddress = IPv4Address | IPv6Address


def normalise_email(text: str) -> str:
    """The one spelling used for look-up, limits and storage. Raises `InvalidEmail`.

    The local part is folded too (RFC 5321 §2.4 allows case to matter; no provider lets it), so that two spellings
    cannot be two accounts. Sub-addresses (`a+b@…`) stay: for some domains they are different people.
    """
    email = unicodedata.normalize("NFKC", text).strip().lower()
    try:
        validate_email(email)
    except ValidationError:
        raise InvalidEmail("Enter an e-mail address like name@example.org.") from None
    if not email.isascii():
        raise InvalidEmail("Use an e-mail address of plain letters, digits and punctuation.")
    return email


def parse_address(text: str) -> IPAddress | None:
    """An address with IPv4-mapped IPv6 unwrapped and zone dropped; None where `text` is none."""
    try:
        address = ipaddress.ip_address(text.strip().strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def client_address(peer: str, forwarded_for: Sequence[str], trusted_hops: int) -> IPAddress | None:
    """The client's address: the peer, or what the N-th trusted proxy from the right wrote in X-Forwarded-For.

    `forwarded_for` are the header's field lines in order. With no trusted hops the header is not read at all, since
    the client writes it. Returns None for a peer without an address (a unix socket).
    """
    if trusted_hops:
        hops = [hop for line in forwarded_for for hop in line.split(",")]
        if len(hops) >= trusted_hops:
            return parse_address(_without_port(hops[-trusted_hops].strip()))
    return parse_address(peer)


def _without_port(hop: str) -> str:
    """Some proxies write `address:port`, IPv6 in brackets. Taken for no address, all their clients would be one."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
