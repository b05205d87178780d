"""One indexed read per request: endpoint, credential and token at once.

There is no cache, so a revoked or rotated token is refused by the very next request in every process. The statement
is compiled once from the ORM, so that models stay the one description of the tables, and run on the event loop: through
`sqlite3` directly (a read of some ten microseconds) or an asynchronous pool (PostgreSQL). No connection is held while
an answer streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlencode
from uuid import UUID

import asyncpg
from django.conf import settings
from django.db import connections
from django.db.models import FilteredRelation, Q

from credentials.envelope import Binding, SealedKey, WrappedKey, stored_bytes
from credentials.models import Endpoint
from proxy.errors import StoreUnavailable

logger = logging.getLogger(__name__)

# How long a request waits for a lock on SQLite, in steps; a checkpoint or a recovery takes less.
_LOCK_PAUSES = (0.001, 0.004, 0.015, 0.03)
# How long PostgreSQL may take to answer or to accept a connection.
ANSWER_SECONDS = 2.0
# How long a store that failed is left alone.
DOWN_SECONDS = 0.25
MOST_CONNECTIONS = 8
_SESSION_OPTIONS = frozenset(
    {"application_name", "options", "sslcert", "sslcrl", "sslkey", "sslmode", "sslpassword", "sslrootcert"}
    | {"target_session_attrs"}
)

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
    "max_streams",
)
_TEXT_COLUMNS = (2, 5, 6, 7, 9)
_BINARY_COLUMNS = (10, 11, 12, 13)
_JSON_COLUMNS = (18, 19)


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
    max_streams: int | None

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
    """The SQL of the one read. Its parameters are the digest and the subdomain, in this order.

    `placeholder` is what the driver writes for a parameter, `%d` in it the parameter's number.
    """
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
    for number in (1, 2):
        sql = sql.replace("%s", placeholder.replace("%d", str(number)), 1)
    return str(sql)


class SQLiteLookup:
    """Reads on the event loop: in WAL mode a reader waits for nobody.

    A lock that keeps readers out all the same is waited for without blocking the event loop, and not for long.
    """

    def __init__(self) -> None:
        self._sql = statement("?")
        self._connection: sqlite3.Connection | None = None
        self._down_until = 0.0

    async def find(self, subdomain: str, digest: bytes) -> Route | None:
        if self._down_until > monotonic():
            raise StoreUnavailable(retry_after=1)
        for pause in (*_LOCK_PAUSES, None):
            try:
                row = self._open().execute(self._sql, (digest, subdomain)).fetchone()
            except sqlite3.Error as error:
                if pause is None or not _is_locked(error):
                    await self._down(error)
                    break
                await asyncio.sleep(pause)
            else:
                if self._down_until:
                    self._down_until = 0.0
                    logger.warning("store_back")
                return None if row is None else _from_sqlite(row)
        raise StoreUnavailable(retry_after=1)

    async def _down(self, error: sqlite3.Error) -> None:
        if not self._down_until:
            logger.warning("store_unavailable kind=%s", type(error).__name__)
        self._down_until = monotonic() + DOWN_SECONDS
        await self.close()  # the next attempt takes a fresh connection

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            # Read and write, since WAL readers write their marks, but never made: a missing file is an error.
            uri = Path(connections["default"].settings_dict["NAME"]).absolute().as_uri() + "?mode=rw"
            connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA query_only=ON")
            self._connection = connection
        return self._connection


def _is_locked(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class PostgreSQLLookup:
    """Reads through a few connections of its own, each with the statement prepared.

    asyncpg, since psycopg's asynchronous connections take four times the processor time for one row. A connection
    that fails is closed, and with it the store counts as down: requests are refused at once, and only a task tries to
    connect, so that nobody piles up in front of a database that is gone.
    """

    def __init__(self) -> None:
        self._sql = statement("$%d")
        self._parameters = _parameters(connections["default"].settings_dict)
        self._free: list[tuple[asyncpg.Connection, asyncpg.prepared_stmt.PreparedStatement]] = []
        self._places = asyncio.Semaphore(MOST_CONNECTIONS)
        self._probe: asyncio.Task[None] | None = None

    async def find(self, subdomain: str, digest: bytes) -> Route | None:
        if self._probe is not None:
            raise StoreUnavailable(retry_after=1)
        async with self._places:
            if self._probe is not None:  # gone while this waited
                raise StoreUnavailable(retry_after=1)
            connection = None
            try:
                connection, prepared = self._take() or await self._connect()
                row = await prepared.fetchrow(digest, subdomain, timeout=ANSWER_SECONDS)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                if connection is not None:
                    connection.terminate()
                self._down(error)
                raise StoreUnavailable(retry_after=1) from None
            except asyncio.CancelledError:
                # The client has left in the middle of an answer, so the connection has one to come.
                if connection is not None:
                    connection.terminate()
                raise
            self._free.append((connection, prepared))
        return None if row is None else _from_postgresql(row)

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
        free, self._free = self._free, []
        for connection, _ in free:
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=1)

    def _take(self) -> tuple[asyncpg.Connection, asyncpg.prepared_stmt.PreparedStatement] | None:
        while self._free:
            connection, prepared = self._free.pop()
            if not connection.is_closed():
                return connection, prepared
        return None

    async def _connect(self) -> tuple[asyncpg.Connection, asyncpg.prepared_stmt.PreparedStatement]:
        connection = await asyncpg.connect(**self._parameters)
        return connection, await connection.prepare(self._sql)

    def _down(self, error: Exception) -> None:
        for connection, _ in self._free:
            connection.terminate()
        self._free.clear()
        if self._probe is None:
            logger.warning("store_unavailable kind=%s", type(error).__name__)
            self._probe = asyncio.create_task(self._until_back())

    async def _until_back(self) -> None:
        while True:
            try:
                self._free.append(await self._connect())
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                await asyncio.sleep(DOWN_SECONDS)
                continue
            logger.warning("store_back")
            self._probe = None
            return


def _parameters(config: dict[str, Any]) -> dict[str, Any]:
    """Django's database settings as asyncpg takes them; of the options, those about TLS and the session."""
    options = {name: value for name, value in config["OPTIONS"].items() if name in _SESSION_OPTIONS}
    given = {
        "host": config["HOST"],
        "port": config["PORT"],
        "user": config["USER"],
        "password": config["PASSWORD"],
        "database": config["NAME"],
    }
    return {
        "dsn": f"postgresql:///?{urlencode(options, quote_via=quote)}",
        "timeout": ANSWER_SECONDS,
        "command_timeout": ANSWER_SECONDS,
        **{name: value for name, value in given.items() if value},
    }


def _from_postgresql(row: asyncpg.Record) -> Route:
    """asyncpg gives JSON as text."""
    values = list(row)
    for index in _JSON_COLUMNS:
        values[index] = _from_json(values[index])
    return Route(*values)


def _from_sqlite(row: tuple[Any, ...]) -> Route:
    """SQLite keeps UUIDs as 32 hexadecimal digits, times and JSON as text, and in any column a value of any type."""
    values = list(row)
    for index in _TEXT_COLUMNS:
        values[index] = str(values[index])
    for index in _BINARY_COLUMNS:
        values[index] = stored_bytes(values[index])
    for index in (0, 1, 4):
        values[index] = UUID(hex=values[index])
    if values[15] is not None:
        values[15] = datetime.fromisoformat(values[15]).replace(tzinfo=UTC)
    for index in _JSON_COLUMNS:
        values[index] = _from_json(values[index])
    return Route(*values)


def _from_json(text: str | None) -> list[str]:
    return [] if text is None or text == "[]" else list(json.loads(text))
