"""The rules of a token: whether it is live, and the networks and paths it is limited to."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from accounts.addresses import IPAddress
from proxy.access.minting import mints
from proxy.access.path_patterns import PathPatterns
from proxy.access.route import Route
from proxy.errors import (
    EndpointPaused,
    InvalidToken,
    MintsCredentials,
    NetworkNotAllowed,
    OriginNotAllowed,
    PathNotAllowed,
)
from proxy.http.target import has_encoded_slash


def check(route: Route, *, method: str, path: bytes | None, address: IPAddress | None, origin: bytes = b"") -> None:
    """Refuse a request that its token or its endpoint does not allow.

    `path` is None for an upload URL: the token was allowed the path at which the upload began. `origin` is that of the
    web page that sends the request, or empty. A token that lists origins is for those pages and for what is no page.

    Raises `InvalidToken`, `EndpointPaused`, `NetworkNotAllowed`, `OriginNotAllowed`, `PathNotAllowed`,
    `MintsCredentials`.
    """
    if route.token_id is None or route.revoked_at is not None or route.suspended_at is not None:
        raise InvalidToken
    if route.expires_at is not None and route.expires_at <= datetime.now(UTC):
        raise InvalidToken
    if route.paused_at is not None:
        raise EndpointPaused
    if route.allowed_networks and not _network_allows(tuple(route.allowed_networks), address):
        raise NetworkNotAllowed
    if origin and route.allowed_origins and not lists_origin(route, origin):
        raise OriginNotAllowed
    if path is None:
        return
    if route.allowed_paths and not _path_allows(tuple(route.allowed_paths), method, path):
        raise PathNotAllowed
    if not route.allow_minting and mints(route.provider, route.destination_url, method, path):
        raise MintsCredentials


def lists_origin(route: Route, origin: bytes) -> bool:
    """Return whether the token lists the origin of a web page."""
    return origin.decode("latin-1") in route.allowed_origins


@lru_cache(maxsize=1024)
def _networks(networks: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(network) for network in networks)


def _network_allows(networks: tuple[str, ...], address: IPAddress | None) -> bool:
    return address is not None and any(address in network for network in _networks(networks))


@lru_cache(maxsize=1024)
def _patterns(entries: tuple[str, ...]) -> PathPatterns:
    return PathPatterns(entries)


def _path_allows(entries: tuple[str, ...], method: str, path: bytes) -> bool:
    # An encoded slash would let one segment of a pattern match several segments of the upstream's path.
    return not has_encoded_slash(path) and _patterns(entries).match(method, path)
