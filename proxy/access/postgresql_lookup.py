"""The route look-up on PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import datetime
from time import monotonic
from typing import Any

import asyncpg
from django.conf import settings

from proxy.access import origin_lists, token_state
from proxy.access.circuit_breaker import CircuitBreaker
from proxy.access.kept_routes import Kept, KeptRoutes
from proxy.access.postgresql_connections import STORE_ERRORS, StatementPool, connect_arguments
from proxy.access.route import Route, converters, list_from_json
from proxy.access.route_versions import arguments, statement
from proxy.access.token_state import TokenState, state_from
from proxy.errors import StoreUnavailable
from proxy.server.run import in_task

PROBE_SECONDS = 0.25
# The ids of transactions, which are versions of rows, cannot repeat within this time.
KEEP_SECONDS = 3600.0
# Statements on their way. Two take no more processor time than one, and a reply that is late delays fewer requests.
MAX_BATCHES = 2

_LISTS = ("allowed_paths", "allowed_networks", "allowed_origins")
_CONVERTERS = converters(**{f"{prefix}{name}": list_from_json for prefix in ("", "parent_") for name in _LISTS})

Key = tuple[str, bytes]  # the subdomain, and the token's digest


class _Batch:
    """The requests that one statement replies to, and what was kept for each when it was sent."""

    def __init__(self) -> None:
        self.waiting: dict[Key, list[asyncio.Future[Route | None]]] = {}
        self.kept: list[Kept[str] | None] = []
        self.task: asyncio.Task[None] | None = None

    def reply(self, key: Key, route: Route | None) -> None:
        for future in self.waiting[key]:
            if not future.done():
                future.set_result(route)

    def fail(self, key: Key, error: Exception) -> None:
        for future in self.waiting[key]:
            if not future.done():
                future.set_exception(error)

    def fail_all(self) -> None:
        """Raise `StoreUnavailable` for everyone who still waits."""
        for key in self.waiting:
            self.fail(key, StoreUnavailable(retry_after=1))


class PostgreSQLLookup:
    """Reads with asyncpg. For one row, psycopg's asynchronous connections take four times the processor time.

    One statement looks up the routes of all requests that wait when it is sent. It returns only those that are not kept
    as they are now (`proxy.access.route_versions`). A request that arrives later waits for the next one, so that each
    learns what was committed before it arrived. Requests wait for plain futures, and batches run in tasks.

    A query that fails trips the circuit breaker. A connect that fails does so only if no other connection works.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """`config` is one of Django's DATABASES, as `strake.database_url` returns it."""
        self._kept: KeptRoutes[str] = KeptRoutes()
        self.knows = self._kept.knows
        self.known = self._kept.known
        self._forget_at = 0.0
        self._next: _Batch | None = None  # that requests join
        self._running: set[_Batch] = set()
        self._pool = StatementPool(
            statement(), connect_arguments(config), self._kept.clear, settings.STRAKE_DATABASE_CONNECTIONS
        )
        self._origins_sql = origin_lists.statement("$1")
        self._states_sql = token_state.statement("= ANY($1::varchar[])")
        self._breaker = CircuitBreaker("store", self._pool.add_connection, PROBE_SECONDS)

    def connections(self) -> dict[str, int]:
        return self._pool.counts()

    async def find(self, subdomain: str, digest: bytes) -> Route | None:
        if self._breaker.is_open:
            raise StoreUnavailable(retry_after=1)
        if "," in subdomain:  # There is none, and `arguments` takes none.
            return None
        if self._next is None:
            self._next = _Batch()
            self._start_next()
        found: asyncio.Future[Route | None] = asyncio.get_running_loop().create_future()
        self._next.waiting.setdefault((subdomain, digest), []).append(found)
        return await found

    def _start_next(self) -> None:
        """Send the next batch in the next turn of the event loop, unless enough are on their way."""
        batch = self._next
        if batch is not None and batch.task is None and len(self._running) < MAX_BATCHES:
            self._running.add(batch)
            batch.task = asyncio.get_running_loop().create_task(self._run(batch))

    async def _run(self, batch: _Batch) -> None:
        try:
            rows = await self._pool.ask(lambda: self._arguments(batch))
        except STORE_ERRORS as error:
            self._fail(error)
        except StoreUnavailable:
            pass
        else:
            self._reply(batch, rows)
        finally:
            batch.fail_all()
            if self._next is batch:
                self._next = None
            self._running.discard(batch)
            self._start_next()

    def _arguments(self, batch: _Batch) -> tuple[str, str, str]:
        """Return the arguments of the statement, which is sent now: nobody joins the batch any more."""
        if self._next is batch:
            self._next = None
        if monotonic() >= self._forget_at:
            self._kept.clear()
            self._forget_at = monotonic() + KEEP_SECONDS
        batch.kept = [self._kept.get(*key) for key in batch.waiting]
        return arguments(batch.waiting, ["" if kept is None else kept.version for kept in batch.kept])

    def _reply(self, batch: _Batch, rows: list[asyncpg.Record]) -> None:
        # A route that is kept and not among the rows has not changed. One that is not kept does not exist.
        routes = [None if kept is None else kept.route for kept in batch.kept]
        keys = list(batch.waiting) if rows else []
        for number, version, *row in rows:
            subdomain, digest = key = keys[number - 1]
            routes[number - 1] = None
            if version is not None:
                try:
                    routes[number - 1] = self._kept.keep(subdomain, digest, version, row, _CONVERTERS)
                except (AttributeError, TypeError, ValueError) as error:  # others wait for the other rows
                    batch.fail(key, error)
        for key, route in zip(batch.waiting, routes, strict=True):
            batch.reply(key, route)

    def _fail(self, error: BaseException) -> None:
        """Begin an outage: whoever waits fails now."""
        if self._next is not None:
            self._next.fail_all()
            self._next = None
        # What is kept only tells now which token a request had: the outage ends with a new connection, which clears it.
        self._pool.fail()
        self._breaker.trip(error)

    async def states(self, token_ids: list[str]) -> dict[str, TokenState]:
        rows = await self._fetch(self._states_sql, token_ids)
        states = (state_from(row, bytes_from=bytes, time_from=_unchanged) for row in rows)
        return {state.token_id: state for state in states}

    async def origins(self, subdomain: str) -> list[list[str]]:
        # A new connection has timeouts, which need a task.
        return [list_from_json(text) for (text,) in await in_task(self._fetch(self._origins_sql, subdomain))]

    async def _fetch(self, sql: str, *arguments: object) -> list[Any]:
        if self._breaker.is_open:
            raise StoreUnavailable(retry_after=1)
        try:
            return await self._pool.fetch(sql, *arguments)
        except STORE_ERRORS as error:
            self._fail(error)
            raise StoreUnavailable(retry_after=1) from None

    async def close(self) -> None:
        self._breaker.stop()
        for batch in self._running:
            if batch.task is not None:
                batch.task.cancel()
        await self._pool.close()


def _unchanged(time: datetime | None) -> datetime | None:
    return time
