"""One indexed read per request: endpoint, credential and token at once, or only whether they have changed.

Routes are kept, and used by a request that has just learned that their rows have not changed. So the next request in
any process refuses a revoked or rotated token. The statements are compiled once from Django's models, so they stay the
only description of the tables. They run on the event loop, and no connection is held while a response streams.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from django.conf import settings

from proxy.access.route import Route
from proxy.access.sqlite_lookup import SQLiteLookup
from proxy.access.token_state import TokenState


class Lookup(Protocol):
    """The look-up of either database."""

    async def find(self, subdomain: str, digest: bytes) -> Route | None:
        """Return the endpoint of `subdomain`, with its token of this digest if it has one.

        Returns None if there is no such endpoint. Raises `StoreUnavailable`, without waiting during an outage.
        """

    def knows(self, digest: bytes) -> bool:
        """Whether a token of this digest has been found before. Nothing is read for this."""

    async def states(self, token_ids: list[str]) -> dict[str, TokenState]:
        """Return the state of each token that exists. Raises `StoreUnavailable`, without waiting during an outage."""

    async def origins(self, subdomain: str) -> list[list[str]]:
        """Return the lists of origins of an endpoint's tokens, each once. Raises `StoreUnavailable` as above."""

    def connections(self) -> dict[str, int]:
        """Return the connections of a pool by state: used, idle, and waiting for those who wait for one."""

    def known(self, subdomain: str, digest: bytes) -> tuple[UUID, str] | None:
        """Return the ids of an endpoint and a token that are kept, for statistics. They may not be valid any more."""

    async def close(self) -> None:
        """Close every connection."""


def from_settings() -> Lookup:
    """Return the look-up for the configured database. Call it inside the event loop."""
    config = settings.DATABASES["default"]
    if config["ENGINE"].endswith("sqlite3"):
        return SQLiteLookup()
    from proxy.access.postgresql_lookup import PostgreSQLLookup  # imports a driver that SQLite does not need

    return PostgreSQLLookup(config)
