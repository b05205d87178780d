"""One indexed read per request: endpoint, credential and token at once.

There is no cache, so a revoked or rotated token is refused by the very next request in every process. The statement
is compiled once from the ORM, so that models stay the one description of the tables, and run on the event loop: through
`sqlite3` directly (a read of some ten microseconds) or an asynchronous pool (PostgreSQL). No connection is held while
an answer streams.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import psycopg
import psycopg_pool
from django.conf import settings
from django.db import connections
from django.db.models import FilteredRelation, Q

from credentials.envelope import Binding, SealedKey, WrappedKey
from credentials.models import Endpoint
from proxy.errors import StoreUnavailable

_COLUMNS = (
    "id",
    "owner_id",
    "provider",
    "paused_at",
    "credential__id",
    "credential__destination_url",
    "credential__header_name",
    "credential__header_template",
    "credential__format",
    "credential__master_key_id",
    "credential__wrapped_dek",
    "credential__wrapped_dek_iv",
    "credential__ciphertext",
    "credential__iv",
    "token__id",
    "token__expires_at",
    "token__revoked_at",
    "token__requests_per_minute",
    "token__allowed_paths",
    "token__allowed_networks",
)


class Route(NamedTuple):
    """One row: everything that is known of an endpoint and of the presented token (`token_id` None: not its token)."""

    endpoint_id: UUID
    owner_id: UUID
    provider: str
    paused_at: datetime | str | None
    credential_id: UUID
    destination_url: str
    header_name: str
    header_template: str
    format: int
    master_key_id: str
    wrapped_dek: bytes
    wrapped_dek_iv: bytes
    ciphertext: bytes
    iv: bytes
    token_id: str | None
    expires_at: datetime | None
    revoked_at: datetime | str | None
    requests_per_minute: int | None
    allowed_paths: list[str]
    allowed_networks: list[str]

    @property
    def binding(self) -> Binding:
        return Binding(
            self.credential_id,
            self.endpoint_id,
            self.owner_id,
            self.provider,
            self.destination_url,
            self.header_name,
            self.header_template,
        )

    @property
    def sealed(self) -> SealedKey:
        wrap = WrappedKey(self.master_key_id, self.wrapped_dek, self.wrapped_dek_iv)
        return SealedKey(self.format, wrap, self.ciphertext, self.iv)


class Lookup(Protocol):
    """What both databases offer."""

    async def find(self, subdomain: str, digest: bytes) -> Route | None:
        """The endpoint of `subdomain`, with its token of this digest if there is one. Raises `StoreUnavailable`."""

    async def close(self) -> None:
        """Let go of every connection."""


def configured() -> Lookup:
    """The look-up for the configured database."""
    if settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
        return SQLiteLookup()
    return PostgreSQLLookup()


def statement(placeholder: str) -> str:
    """The SQL of the one read. Its parameters are the digest and the subdomain, in this order."""
    query = (
        Endpoint.objects.order_by()
        .annotate(token=FilteredRelation("tokens", condition=Q(tokens__digest=b"digest")))
        .filter(subdomain="subdomain")
        .values_list(*_COLUMNS)
        .query
    )
    sql, parameters = query.get_compiler(using="default").as_sql()
    if len(parameters) != 2 or bytes(getattr(parameters[0], "obj", parameters[0])) != b"digest":
        raise AssertionError("The look-up no longer takes digest and subdomain in this order.")
    return str(sql).replace("%s", placeholder)


class SQLiteLookup:
    """Reads on the event loop: in WAL mode a reader waits for nobody."""

    def __init__(self) -> None:
        self._sql = statement("?")
        self._connection: sqlite3.Connection | None = None

    async def find(self, subdomain: str, digest: bytes) -> Route | None:
        try:
            row = self._open().execute(self._sql, (digest, subdomain)).fetchone()
        except sqlite3.Error:
            await self.close()  # the next request tries a fresh connection
            raise StoreUnavailable(retry_after=1) from None
        return None if row is None else _from_sqlite(row)

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            path = connections["default"].settings_dict["NAME"]
            # Waiting for a lock would block the event loop, so hardly any waiting is allowed.
            connection = sqlite3.connect(path, timeout=0.02, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA query_only=ON")
            self._connection = connection
        return self._connection


class PostgreSQLLookup:
    """Reads through an asynchronous pool with a prepared statement."""

    def __init__(self) -> None:
        self._sql = statement("%s")
        self._pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]] | None = None

    async def find(self, subdomain: str, digest: bytes) -> Route | None:
        try:
            pool = await self._open()
            async with pool.connection() as connection:
                cursor = await connection.execute(self._sql, (digest, subdomain), prepare=True)
                row = await cursor.fetchone()
        except (psycopg.Error, psycopg_pool.PoolTimeout, OSError):
            raise StoreUnavailable(retry_after=1) from None
        return None if row is None else Route(*row)

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()
            self._pool = None

    async def _open(self) -> psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]]:
        if self._pool is None:
            parameters = connections["default"].get_connection_params()
            known = ("dbname", "user", "password", "host", "port", "sslmode", "sslrootcert", "options")
            self._pool = psycopg_pool.AsyncConnectionPool(
                kwargs={
                    "autocommit": True,
                    "connect_timeout": 3,
                    **{name: parameters[name] for name in known if name in parameters},
                },
                min_size=1,
                max_size=8,
                timeout=2,
                reconnect_timeout=5,
                check=None,
                open=False,
            )
            await self._pool.open()
        return self._pool


def _from_sqlite(row: tuple[Any, ...]) -> Route:
    """SQLite keeps UUIDs as 32 hexadecimal digits, times and JSON as text."""
    values = list(row)
    for index in (0, 1, 4):
        values[index] = UUID(hex=values[index])
    if values[15] is not None:
        values[15] = datetime.fromisoformat(values[15]).replace(tzinfo=UTC)
    for index in (18, 19):
        values[index] = json.loads(values[index]) if values[index] not in {None, "[]"} else []
    return Route(*values)
