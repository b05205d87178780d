"""What a token may do: be used at all, until when, on which paths, from where, how often; and how much at once."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from uuid import UUID

from django.conf import settings

from accounts.addresses import IPAddress
from proxy.errors import EndpointPaused, InvalidToken, NetworkNotAllowed, PathNotAllowed, TooManyAtOnce
from proxy.globs import Globs
from proxy.lookup import Route
from proxy.paths import has_encoded_slash


def check(route: Route, *, method: str, path: bytes, address: IPAddress | None) -> None:
    """Refuse a request that is outside what its token may do, whatever else is going on.

    Raises `InvalidToken`, `EndpointPaused`, `NetworkNotAllowed`, `PathNotAllowed`.
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


class InFlight:
    """How many requests of each endpoint this process is forwarding, streams and WebSocket connections included.

    The installation's limit keeps one endpoint from taking all connections and memory of a worker; its owner may set
    a lower one. Each process counts what it forwards itself, so that no request waits for a shared store.
    """

    def __init__(self) -> None:
        self._counts: dict[UUID, int] = {}
        self._most = settings.STRAKE_MAX_STREAMS

    def enter(self, endpoint_id: UUID, max_streams: int | None) -> None:
        """Count a request in, under the endpoint's own limit too; each needs its `leave`.

        Raises `TooManyAtOnce`, which counts nothing.
        """
        count = self._counts.get(endpoint_id, 0)
        if count >= self._most or (max_streams is not None and count >= max_streams):
            raise TooManyAtOnce(retry_after=1)
        self._counts[endpoint_id] = count + 1

    def leave(self, endpoint_id: UUID) -> None:
        count = self._counts[endpoint_id] - 1
        if count:
            self._counts[endpoint_id] = count
        else:
            del self._counts[endpoint_id]


@lru_cache(maxsize=1024)
def _networks(networks: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(network) for network in networks)


def _network_allows(networks: tuple[str, ...], address: IPAddress | None) -> bool:
    return address is not None and any(address in network for network in _networks(networks))


@lru_cache(maxsize=1024)
def _globs(entries: tuple[str, ...]) -> Globs:
    return Globs(entries)


def _path_allows(entries: tuple[str, ...], method: str, path: bytes) -> bool:
    # An encoded slash would let one segment of a pattern swallow several of the upstream's.
    return not has_encoded_slash(path) and _globs(entries).match(method, path)
