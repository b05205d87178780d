"""The route look-up on SQLite."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import connections

from credentials.vault.envelope import stored_bytes
from proxy.access import origin_lists, token_state
from proxy.access.circuit_breaker import CircuitBreaker
from proxy.access.kept_routes import KeptRoutes
from proxy.access.route import Route, converters, list_from_json, statement
from proxy.access.token_state import TokenState, state_from
from proxy.errors import StoreUnavailable

# How long a request waits for a lock, in steps. A checkpoint or a recovery takes less.
_LOCK_PAUSES = (0.001, 0.004, 0.015, 0.03)
PROBE_SECONDS = 0.25
_VERSION_SQL = "PRAGMA data_version"


def _utc(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


# SQLite stores UUIDs as 32 hexadecimal digits, times and JSON as text, and accepts any type in any column.
_CONVERTERS = converters(
    endpoint_id=UUID,
    owner_id=UUID,
    provider=str,
    credential_id=UUID,
    destination_url=str,
    header_name=str,
    header_template=str,
    master_key_id=str,
    wrapped_dek=stored_bytes,
    wrapped_dek_iv=stored_bytes,
    ciphertext=stored_bytes,
    iv=stored_bytes,
    expires_at=_utc,
    owner_email=str,
    allowed_paths=list_from_json,
    allowed_networks=list_from_json,
    allowed_origins=list_from_json,
    parent_expires_at=_utc,
    parent_allowed_paths=list_from_json,
    parent_allowed_networks=list_from_json,
    parent_allowed_origins=list_from_json,
)


class SQLiteLookup:
    """Reads on the event loop, which takes some ten microseconds: in WAL mode a reader waits for no writer.

    If a lock excludes readers all the same, a request waits for it without blocking the event loop, at most 50 ms.

    Each request asks for SQLite's data version (https://sqlite.org/pragma.html#pragma_data_version). A route is kept,
    and used while that is still the version before which it was read: nothing at all has been committed since.
    """

    def __init__(self) -> None:
        self._sql = statement("?")
        self._states_sql = token_state.statement("IN (SELECT value FROM json_each(?))")
        self._origins_sql = origin_lists.statement("?")
        self._connection: sqlite3.Connection | None = None
        self._cursor: Any = None  # of the connection, for the version
        self._kept: KeptRoutes[int] = KeptRoutes()
        self.knows = self._kept.knows
        self.known = self._kept.known
        self._breaker = CircuitBreaker("store", self._probe, PROBE_SECONDS)
        try:
            # Now, because with a full disk SQLite could not create its shared memory any more.
            self._open().execute(self._sql, (b"", "")).fetchone()
        except sqlite3.Error:
            self._disconnect()  # requests try again

    async def find(self, subdomain: str, digest: bytes) -> Route | None:
        try:
            version = self._cursor.execute(_VERSION_SQL).fetchone()[0]
        except (AttributeError, sqlite3.Error):  # there is no connection, or a lock
            version = (await self._read(_VERSION_SQL))[0][0]
        kept = self._kept.get(subdomain, digest)
        if kept is not None and kept.version == version:
            return kept.route
        rows = await self._read(self._sql, (digest, subdomain))
        # Read after the version, so a change in between makes the next request read again.
        return self._kept.keep(subdomain, digest, version, rows[0], _CONVERTERS) if rows else None

    async def states(self, token_ids: list[str]) -> dict[str, TokenState]:
        rows = await self._read(self._states_sql, (json.dumps(token_ids),))
        states = (state_from(row, bytes_from=stored_bytes, time_from=_utc) for row in rows)
        return {state.token_id: state for state in states}

    async def origins(self, subdomain: str) -> list[list[str]]:
        return [list_from_json(text) for (text,) in await self._read(self._origins_sql, (subdomain,))]

    async def _read(self, sql: str, parameters: tuple[object, ...] = ()) -> list[Any]:
        if self._breaker.is_open:
            raise StoreUnavailable(retry_after=1)
        for pause in (*_LOCK_PAUSES, None):
            try:
                return self._open().execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                if pause is None or not _is_locked(error):
                    self._disconnect()
                    self._breaker.trip(error)
                    break
                await asyncio.sleep(pause)
        raise StoreUnavailable(retry_after=1)

    def connections(self) -> dict[str, int]:
        return {}  # one, which nobody waits for

    async def close(self) -> None:
        self._breaker.stop()
        self._disconnect()

    async def _probe(self) -> None:
        try:
            self._open().execute(self._sql, (b"", "")).fetchone()
        except sqlite3.Error:
            self._disconnect()
            raise

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            # WAL readers write to the shared-memory file, hence rw. Not rwc: a missing database is an error.
            uri = Path(connections["default"].settings_dict["NAME"]).absolute().as_uri() + "?mode=rw"
            connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA query_only=ON")
            self._connection = connection
            self._cursor = connection.cursor()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = self._cursor = None
            self._kept.clear()  # another connection counts versions anew


def _is_locked(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
