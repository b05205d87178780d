"""The routes that a look-up keeps, each with the version of the rows from which it was read.

A kept route gives nobody access. It is used by a request that has just learned that its rows have not changed.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar
from uuid import UUID

from proxy.access.route import Converters, Route, route_from

MAX_KEPT = 10_000

Version = TypeVar("Version")


class Kept(Generic[Version]):
    """A route, the row as the driver returned it, and its version."""

    __slots__ = ("route", "row", "subdomain", "version")

    def __init__(self, subdomain: str, version: Version, row: Any, route: Route) -> None:
        self.subdomain = subdomain
        self.version = version
        self.row = row
        self.route = route


class KeptRoutes(Generic[Version]):
    """Routes by the digest of the token, which is not kept itself. Beyond `MAX_KEPT` the oldest goes."""

    def __init__(self) -> None:
        self._kept: dict[bytes, Kept[Version]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, subdomain: str, digest: bytes) -> Kept[Version] | None:
        kept = self._kept.get(digest)
        return kept if kept is not None and kept.subdomain == subdomain else None

    def knows(self, digest: bytes) -> bool:
        """Whether a token of this digest exists or has existed."""
        return digest in self._kept

    def known(self, subdomain: str, digest: bytes) -> tuple[UUID, str] | None:
        """Return the ids of the endpoint and the token, as they were read last."""
        kept = self.get(subdomain, digest)
        if kept is None or kept.route.token_id is None:
            return None
        return kept.route.endpoint_id, kept.route.token_id

    def keep(self, subdomain: str, digest: bytes, version: Version, row: Any, convert: Converters) -> Route:
        """Keep a row that was just read. What was derived from the same values before stays.

        Without a token it is not kept, so that guessing tokens displaces nothing.
        """
        before = self.get(subdomain, digest)
        route = before.route if before is not None and before.row == row else route_from(row, convert)
        if route.token_id is None:
            return route
        if digest not in self._kept and len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[digest] = Kept(subdomain, version, row, route)
        return route

    def clear(self) -> None:
        self._kept.clear()
