"""Validation of the limits of bearer tokens and endpoints, and their canonical form in the database."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, Unpack
from urllib.parse import urlsplit

from django.conf import settings
from django.utils import timezone

from credentials.errors import InvalidLimit

MAX_ENTRIES = 50
MAX_REQUESTS_PER_MINUTE = 1_000_000
MAX_BUDGET = 1_000_000_000
_METHODS = frozenset({"*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class LimitValues(TypedDict, total=False):
    """The limits of a token as people and programs give them. One that is missing is not set, or stays as it is."""

    expires_at: datetime | None
    requests_per_minute: int | None
    allowed_paths: Iterable[str]
    allowed_networks: Iterable[str]
    allow_minting: bool
    allowed_origins: Iterable[str]
    requests_per_day: int | None
    requests_per_month: int | None
    concurrent_requests: int | None


LIMIT_NAMES = tuple(LimitValues.__annotations__)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one token. None and an empty tuple mean no limit of that kind.

    Without `allow_minting`, calls that create a credential at the provider are refused. `allowed_origins` are the
    origins of web pages that may use the token. Without any, browsers get no CORS headers from Strake. Days and months
    are those of UTC. `concurrent_requests` counts in each server process.
    """

    expires_at: datetime | None = None
    requests_per_minute: int | None = None
    allowed_paths: tuple[str, ...] = ()
    allowed_networks: tuple[str, ...] = ()
    allow_minting: bool = False
    allowed_origins: tuple[str, ...] = ()
    requests_per_day: int | None = None
    requests_per_month: int | None = None
    concurrent_requests: int | None = None

    def columns(self, names: Iterable[str] = LIMIT_NAMES) -> dict[str, Any]:
        """The values of these columns of `BearerToken`."""
        values = {name: getattr(self, name) for name in names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def clean(**values: Unpack[LimitValues]) -> Limits:
    """Validate limits and return them in canonical form. Raises `InvalidLimit`."""
    expires_at = values.get("expires_at")
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidLimit("The expiry must lie in the future.", field="expires_at")
    per_minute, per_day = values.get("requests_per_minute"), values.get("requests_per_day")
    per_month, concurrent = values.get("requests_per_month"), values.get("concurrent_requests")
    _check_number(per_minute, MAX_REQUESTS_PER_MINUTE, "Requests per minute", "requests_per_minute")
    _check_number(per_day, MAX_BUDGET, "Requests a day", "requests_per_day")
    _check_number(per_month, MAX_BUDGET, "Requests a month", "requests_per_month")
    _check_streams(concurrent, "concurrent_requests")
    return Limits(
        expires_at=expires_at,
        requests_per_minute=per_minute,
        allowed_paths=_entries(values.get("allowed_paths", ()), _path, "paths", "allowed_paths"),
        allowed_networks=_entries(values.get("allowed_networks", ()), _network, "networks", "allowed_networks"),
        allow_minting=values.get("allow_minting", False),
        allowed_origins=_entries(values.get("allowed_origins", ()), _origin, "web origins", "allowed_origins"),
        requests_per_day=per_day,
        requests_per_month=per_month,
        concurrent_requests=concurrent,
    )


def check_max_streams(max_streams: int | None) -> None:
    """Validate an endpoint's limit of concurrent requests. Raises `InvalidLimit`.

    A limit above `STRAKE_MAX_STREAMS`, which counts for every endpoint, would have no effect.
    """
    _check_streams(max_streams, "max_streams")


def _check_streams(number: int | None, field: str) -> None:
    if number is not None and not 1 <= number <= settings.STRAKE_MAX_STREAMS:
        raise InvalidLimit(
            f"Concurrent requests must be from 1 to {settings.STRAKE_MAX_STREAMS:,}, the most that this installation "
            "allows.",
            field=field,
        )


def _check_number(number: int | None, most: int, name: str, field: str) -> None:
    if number is not None and not 1 <= number <= most:
        raise InvalidLimit(f"{name} must be from 1 to {most}.", field=field)


def _entries(given: Iterable[str], clean_one: Callable[[str], str], name: str, field: str) -> tuple[str, ...]:
    """The canonical form of each entry, once."""
    entries = tuple(dict.fromkeys(clean_one(entry) for entry in given if entry.strip()))
    if len(entries) > MAX_ENTRIES:
        raise InvalidLimit(f"At most {MAX_ENTRIES} {name}.", field=field)
    return entries


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


def _origin(entry: str) -> str:
    """An origin as browsers send it (RFC 6454 §6.2): lower case, ASCII, without the default port.

    There is no entry for every origin. The list is what shows an owner which pages a token belongs to, and a page that
    is missing from it costs one line.
    """
    text = entry.strip()
    if text in {"*", "null"}:
        raise InvalidLimit(
            f"{text} can't be allowed. List the origins of your pages, one per line, like https://app.example.com",
            field="allowed_origins",
        )
    try:
        parts = urlsplit(text)
        port = parts.port
        host = _ascii_host(parts.hostname or "")
    except ValueError:  # UnicodeError is one
        raise _not_an_origin(text) from None
    if parts.scheme not in _DEFAULT_PORTS or "@" in parts.netloc:
        raise _not_an_origin(text)
    if parts.path not in {"", "/"} or "?" in text or "#" in text:
        raise InvalidLimit(
            f"An origin has no path. Write {parts.scheme}://{parts.netloc[:100]}", field="allowed_origins"
        )
    if parts.scheme == "http" and not _is_loopback(host.strip("[]")):
        raise InvalidLimit(
            "Origins use https, because anybody on the way could change a page that comes over http. Only pages of "
            "this machine may use http, like http://localhost:3000",
            field="allowed_origins",
        )
    origin = f"{parts.scheme}://{host}" + ("" if port in {None, _DEFAULT_PORTS[parts.scheme]} else f":{port}")
    if origin == settings.STRAKE_BASE_URL:
        raise InvalidLimit("Strake's own pages can't call endpoints.", field="allowed_origins")
    return origin


def _not_an_origin(text: str) -> InvalidLimit:
    return InvalidLimit(
        f"{text[:100]} is not the origin of a page. It looks like https://app.example.com, or with a port.",
        field="allowed_origins",
    )


def _ascii_host(host: str) -> str:
    """Return a host as it is written in an origin. Raises `ValueError`."""
    if ":" in host:
        return f"[{ipaddress.IPv6Address(host).compressed}]"
    name = (host if host.isascii() else host.encode("idna").decode()).lower()
    if not _HOST.fullmatch(name):
        raise ValueError
    return name


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
