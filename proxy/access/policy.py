"""The rules of a token: whether it is live, and the networks and paths it is limited to."""

from __future__ import annotations

from datetime import UTC, datetime

from accounts.addresses import IPAddress
from proxy.access.route import Parent, Route
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
    The limits of the token's parent apply too.

    Raises `InvalidToken`, `EndpointPaused`, `NetworkNotAllowed`, `OriginNotAllowed`, `PathNotAllowed`,
    `MintsCredentials`.
    """
    if route.is_ended or (route.expires_at is not None and route.expires_at <= datetime.now(UTC)):
        raise InvalidToken
    if route.is_paused:
        raise EndpointPaused
    if origin and route.lists_origins and origin not in route.origins:
        raise OriginNotAllowed
    limits: Route | Parent | None = route
    while limits is not None:
        if limits.networks and (address is None or not any(address in network for network in limits.networks)):
            raise NetworkNotAllowed
        if path is not None:
            # An encoded slash would let one segment of a pattern match several segments of the upstream's path.
            if limits.paths is not None and (has_encoded_slash(path) or not limits.paths.match(method, path)):
                raise PathNotAllowed
            if limits.minting is not None and limits.minting.forbid(method, path):
                raise MintsCredentials
        limits = limits.parent
