"""Normalisation of email and IP addresses."""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from accounts.errors import InvalidEmail, InvalidNetwork
from accounts.plain_text import is_plain

IPAddress = IPv4Address | IPv6Address


def normalise_email(text: str) -> str:
    """Return the canonical spelling, which look-ups, rate limits and storage all use. Raises `InvalidEmail`.

    Two spellings must not become two accounts, so the local part is lower-cased too. RFC 5321 §2.4 permits
    case-sensitive mailboxes, but mail providers do not offer them. Sub-addresses (`a+b@…`) are kept, because on some
    domains they belong to different people.
    """
    email = unicodedata.normalize("NFKC", text).strip().lower()
    try:
        validate_email(email)
    except ValidationError:
        raise InvalidEmail("Enter an email address like name@example.org.") from None
    if not email.isascii() or not is_plain(email):  # a quoted local part may contain control characters
        raise InvalidEmail("Use an email address of ASCII letters, digits and punctuation.")
    return email


def parse_address(text: str) -> IPAddress | None:
    """Parse an IP address, unwrapping IPv4-mapped IPv6 and dropping the zone. Returns None if `text` is not one."""
    try:
        address = ipaddress.ip_address(text.strip().strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """Parse an address or a network in CIDR notation. Bits beyond its prefix are dropped. Raises `InvalidNetwork`."""
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise InvalidNetwork(f"{text.strip()[:50]} is not an address or network like 192.0.2.0/24.") from None


def client_address(peer: str, forwarded_for: Sequence[str], trusted_hops: int) -> IPAddress | None:
    """Return the client's IP address, or None if it has none (a Unix socket) or the header holds no valid address.

    `forwarded_for` is the list of X-Forwarded-For field lines, in order. Each trusted proxy appends the address it saw,
    so the client is the `trusted_hops`-th entry from the right. With no trusted hops the header is ignored, because
    clients can write anything into it.
    """
    if trusted_hops:
        hops = [hop for line in forwarded_for for hop in line.split(",")]
        if len(hops) >= trusted_hops:
            return parse_address(_without_port(hops[-trusted_hops].strip()))
    return parse_address(peer)


def _without_port(hop: str) -> str:
    """Strip the port that some proxies append. Unparsed, all their clients would share one rate limit."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
