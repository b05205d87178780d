"""What a token may do: be used at all, until when, how often, on which paths, from where."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network
from time import monotonic

from proxy.errors import EndpointPaused, InvalidToken, NetworkNotAllowed, PathNotAllowed, RateLimited
from proxy.lookup import Route
from proxy.paths import has_encoded_slash


def check(route: Route, *, method: str, path: bytes, address: IPv4Address | IPv6Address | None) -> None:
    """Refuse a request that is outside its token's limits. The rate comes last: what is refused costs nothing of it.

    Raises `InvalidToken`, `EndpointPaused`, `NetworkNotAllowed`, `PathNotAllowed`, `RateLimited`.
    """
    if route.token_id is None or route.revoked_at is not None:
        raise InvalidToken
    if route.expires_at is not None and route.expires_at <= datetime.now(UTC):
        raise InvalidToken
    if route.paused_at is not None:
        raise EndpointPaused
    if route.allowed_networks and not _network_allows(tuple(route.allowed_networks), address):
        raise NetworkNotAllowed
    if route.allowed_paths and not _path_allows(tuple(route.allowed_paths), method, path):
        raise PathNotAllowed
    if route.requests_per_minute is not None:
        _rates.take(route.token_id, route.requests_per_minute)


@lru_cache(maxsize=1024)
def _networks(networks: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(ip_network(network) for network in networks)


def _network_allows(networks: tuple[str, ...], address: IPv4Address | IPv6Address | None) -> bool:
    return address is not None and any(address in network for network in _networks(networks))  # type: ignore[operator]


@lru_cache(maxsize=1024)
def _patterns(entries: tuple[str, ...]) -> tuple[tuple[str, re.Pattern[bytes]], ...]:
    compiled = []
    for entry in entries:
        method, _, glob = entry.partition(" ")
        parts = re.split(r"(\*\*|\*)", glob)
        source = "".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
        compiled.append((method, re.compile(source.encode())))
    return tuple(compiled)


def _path_allows(entries: tuple[str, ...], method: str, path: bytes) -> bool:
    # An encoded slash would let one segment of a pattern swallow several of the upstream's.
    if has_encoded_slash(path):
        return False
    return any(
        allowed in {"*", method} and pattern.fullmatch(path) is not None for allowed, pattern in _patterns(entries)
    )


class Rates:
    """Requests per minute by the generic cell rate algorithm (ITU-T I.371): one number per token, no windows to game.

    A token may use its whole minute at once and then gets its requests back evenly.
    """

    def __init__(self, *, most: int = 100_000) -> None:
        self._arrivals: dict[str, float] = {}
        self._most = most

    def take(self, token_id: str, per_minute: int) -> None:
        """Count one request. Raises `RateLimited` with the seconds to wait."""
        now = monotonic()
        interval = 60 / per_minute
        arrival = max(self._arrivals.get(token_id, now), now)
        if arrival - now > 60 - interval:
            raise RateLimited(retry_after=max(1, round(arrival - now - 60 + interval + 0.5)))
        if len(self._arrivals) >= self._most:
            self._arrivals = {key: value for key, value in self._arrivals.items() if value > now}
        self._arrivals[token_id] = arrival + interval


_rates = Rates()
