"""Validation of the limits of bearer tokens and endpoints, and their canonical form in the database."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.utils import timezone

from credentials.errors import InvalidLimit

MAX_ENTRIES = 50
MAX_REQUESTS_PER_MINUTE = 1_000_000
_METHODS = frozenset({"*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one token. None and an empty tuple mean no limit of that kind.

    Without `allow_minting`, calls that create a credential at the provider are refused.
    """

    expires_at: datetime | None = None
    requests_per_minute: int | None = None
    allowed_paths: tuple[str, ...] = ()
    allowed_networks: tuple[str, ...] = ()
    allow_minting: bool = False


def clean(
    *,
    expires_at: datetime | None = None,
    requests_per_minute: int | None = None,
    allowed_paths: Iterable[str] = (),
    allowed_networks: Iterable[str] = (),
    allow_minting: bool = False,
) -> Limits:
    """Validate limits and return them in canonical form. Raises `InvalidLimit`."""
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidLimit("The expiry must lie in the future.", field="expires_at")
    if requests_per_minute is not None and not 1 <= requests_per_minute <= MAX_REQUESTS_PER_MINUTE:
        raise InvalidLimit(
            f"Requests per minute must be from 1 to {MAX_REQUESTS_PER_MINUTE}.", field="requests_per_minute"
        )
    paths = tuple(dict.fromkeys(_path(entry) for entry in allowed_paths if entry.strip()))
    networks = tuple(dict.fromkeys(_network(entry) for entry in allowed_networks if entry.strip()))
    if len(paths) > MAX_ENTRIES:
        raise InvalidLimit(f"At most {MAX_ENTRIES} paths.", field="allowed_paths")
    if len(networks) > MAX_ENTRIES:
        raise InvalidLimit(f"At most {MAX_ENTRIES} networks.", field="allowed_networks")
    return Limits(expires_at, requests_per_minute, paths, networks, allow_minting)


def check_max_streams(max_streams: int | None) -> None:
    """Validate an endpoint's limit of concurrent requests. Raises `InvalidLimit`.

    A limit above `STRAKE_MAX_STREAMS`, which counts for every endpoint, would have no effect.
    """
    if max_streams is not None and not 1 <= max_streams <= settings.STRAKE_MAX_STREAMS:
        raise InvalidLimit(
            f"Concurrent requests must be from 1 to {settings.STRAKE_MAX_STREAMS:,}, the most that this installation "
            "allows.",
            field="max_streams",
        )


def _path(entry: str) -> str:
    """`METHOD /glob`. A bare `/glob` allows every method. `*` matches within a segment, `**` across segments."""
    method, _, glob = entry.strip().rpartition(" ")
    method, glob = (method.strip().upper() or "*"), glob.strip()
    if method not in _METHODS:
        raise InvalidLimit(
            f"{method[:20]} is not a method. Write paths like: POST /v1/chat/completions",
            field="allowed_paths",
        )
    if not _PATH.fullmatch(glob) or len(glob) > 256:
        raise InvalidLimit(
            "A path starts with / and holds plain characters, * within a segment, ** across segments.",
            field="allowed_paths",
        )
    return f"{method} {glob}"


def _network(entry: str) -> str:
    try:
        return str(ipaddress.ip_network(entry.strip(), strict=False))
    except ValueError:
        raise InvalidLimit(
            f"{entry.strip()[:50]} is not an address or network like 192.0.2.0/24.", field="allowed_networks"
        ) from None
