"""The connections of the PostgreSQL look-up."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import asyncpg
from asyncpg import connect_utils

from accounts import postgresql_files
from proxy.errors import StoreUnavailable

# How long PostgreSQL may take to reply, or to accept a connection unless DATABASE_URL has a connect_timeout.
TIMEOUT_SECONDS = 2.0
# How long no new connection is tried after one was refused while others work.
CONNECT_PAUSE_SECONDS = 1.0
MAX_CONNECTIONS = 8
STORE_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
# As in libpq, any other error, such as a wrong password, is not worth a try at the next host.
_NEXT_HOST_ERRORS = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)

Result = TypeVar("Result")


class _Prepared(NamedTuple):
    connection: asyncpg.Connection
    statement: asyncpg.prepared_stmt.PreparedStatement


class StatementPool:
    """Up to `size` connections, each with one statement prepared.

    Behind a pooler such as PgBouncer, no statement has a name: each transaction may run on another server connection,
    which does not know it, or on which another client has given the name to another statement.

    Not `asyncpg.Pool`, for two reasons. It creates a proxy and a task for every use, and resets the connection: at
    least half as much processor time again as the query takes. And if the server refuses further connections, it fails
    requests that could have waited for a connection that works.
    """

    def __init__(
        self,
        sql: str,
        hosts: list[dict[str, Any]],
        on_connect: Callable[[], object] = lambda: None,
        size: int = MAX_CONNECTIONS,
    ) -> None:
        """`on_connect` is called after each new connection, before anything is asked on it."""
        self._sql = sql
        self._max_size = size
        self._on_connect = on_connect
        self._hosts = hosts
        self._idle: list[_Prepared] = []
        self._size = 0  # connected or connecting
        # Each receives a connection, or None if it should look again.
        self._waiters: deque[asyncio.Future[_Prepared | None]] = deque()
        self._no_connect_before = 0.0
        self._failures = 0

    async def ask(self, arguments: Callable[[], tuple[object, ...]]) -> list[asyncpg.Record]:
        """Run the statement and return its rows.

        `arguments` is called as soon as there is a connection, and the statement is sent at once after that. Raises one
        of `STORE_ERRORS`, or `StoreUnavailable` by `fail`.
        """
        return await self._run(lambda prepared: prepared.statement.fetch(*arguments(), timeout=TIMEOUT_SECONDS))

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Run another statement and return its rows. Raises as `ask` does."""
        return await self._run(lambda prepared: prepared.connection.fetch(sql, *arguments, timeout=TIMEOUT_SECONDS))

    async def _run(self, query: Callable[[_Prepared], Awaitable[Result]]) -> Result:
        prepared = await self._acquire()
        try:
            result = await query(prepared)
        except BaseException:
            # After an error, or if the client left, the rest of a response may still be on its way.
            prepared.connection.terminate()
            self._remove()
            raise
        self._release(prepared)
        return result

    def counts(self) -> dict[str, int]:
        """Return the number of connections by state, and of statements that wait for one. For any thread."""
        idle = len(self._idle)
        return {"used": self._size - idle, "idle": idle, "waiting": len(self._waiters)}

    async def add_connection(self) -> None:
        """Connect once more, for a probe. Raises one of `STORE_ERRORS`."""
        self._release(await self._connect())

    def fail(self) -> None:
        """Drop the idle connections, and raise `StoreUnavailable` for everyone who waits for one."""
        self._failures += 1
        for connection, _ in self._idle:
            connection.terminate()
        self._size -= len(self._idle)
        self._idle.clear()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(StoreUnavailable(retry_after=1))
        self._waiters.clear()

    async def close(self) -> None:
        for connection, _ in self._idle:
            with contextlib.suppress(*STORE_ERRORS):
                await connection.close(timeout=1)
        self._idle.clear()

    async def _acquire(self) -> _Prepared:
        failures = self._failures
        while self._failures == failures:
            while self._idle:
                prepared = self._idle.pop()
                if not prepared.connection.is_closed():
                    return prepared
                self._size -= 1
            if self._may_connect():
                try:
                    return await self._connect()
                except STORE_ERRORS:
                    if not self._size and self._failures == failures:
                        raise
                    self._no_connect_before = monotonic() + CONNECT_PAUSE_SECONDS
            elif (handed_over := await self._wait()) is not None:
                return handed_over
        # Others found out first. Another attempt would wait for another timeout.
        raise StoreUnavailable(retry_after=1)

    def _may_connect(self) -> bool:
        return not self._size or (self._size < self._max_size and monotonic() >= self._no_connect_before)

    async def _connect(self) -> _Prepared:
        self._size += 1
        try:
            connection = await _connect_to_first(self._hosts)
            try:
                name = "" if await _is_pooled(connection) else "route"
                prepared = _Prepared(connection, await connection.prepare(self._sql, name=name))
            except BaseException:
                connection.terminate()
                raise
        except BaseException:
            self._remove()
            raise
        self._on_connect()
        return prepared

    async def _wait(self) -> _Prepared | None:
        waiter: asyncio.Future[_Prepared | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # Handed over in the same moment.
                prepared = waiter.result()
                if prepared is None:
                    self._hand_over(None)
                else:
                    self._release(prepared)
            raise

    def _release(self, prepared: _Prepared) -> None:
        if not self._hand_over(prepared):
            self._idle.append(prepared)

    def _remove(self) -> None:
        """Forget a connection. Somebody who waits may connect in its place."""
        self._size -= 1
        self._hand_over(None)

    def _hand_over(self, prepared: _Prepared | None) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(prepared)
                return True
        return False


# The pool, and options of libpq's that asyncpg would pass on to the server. It has `command_timeout` for their purpose.
_LIBPQ_ONLY = {
    "pool",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
}


def connect_arguments(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return arguments for `asyncpg.connect`, one set for each attempt that libpq would make with Django's `config`."""
    options = {
        name: value
        for name, value in config["OPTIONS"].items()
        if name not in _LIBPQ_ONLY and value != postgresql_files.NO_FILE
    }
    timeout = float(options.pop("connect_timeout", TIMEOUT_SECONDS))
    target = options.pop("target_session_attrs", "any")
    shared = {
        # asyncpg reads the TLS options from a DSN only. It passes the others, `application_name` and `options`, to the
        # server, as libpq does.
        "dsn": f"postgresql:///?{urlencode(options, quote_via=quote)}",
        "user": config["USER"] or None,
        "password": str(config["PASSWORD"]) or None,  # asyncpg refuses a subclass of str
        "database": config["NAME"],
        "timeout": timeout,
        "command_timeout": TIMEOUT_SECONDS,
        # Else every statement gets a name. With 0, one without a name is parsed and executed in one message.
        "statement_cache_size": 0,
    }
    # One host at a time: asyncpg's timeout is for all hosts together, libpq's for each.
    hosts = list(zip(config["HOST"].split(","), config["PORT"].split(","), strict=True))
    return [
        {**shared, "host": host, "port": int(port), "target_session_attrs": attribute}
        for attribute in (["standby", "any"] if target == "prefer-standby" else [target])
        for host, port in hosts
    ]


def _only_readable(find: Callable[[str], Path | None]) -> Callable[[str], Path | None]:
    def find_readable(name: str) -> Path | None:
        path = find(name)
        return path if path is not None and postgresql_files.is_readable(path) else None

    return find_readable


# asyncpg goes on without a file that is missing, and has no option to go on without one that it may not read.
connect_utils._dot_postgresql_path = _only_readable(connect_utils._dot_postgresql_path)  # noqa: SLF001


async def connect_once(config: dict[str, Any]) -> None:
    """Connect once as the look-up does. Raises one of `STORE_ERRORS`."""
    connection = await _connect_to_first(connect_arguments(config))
    await connection.close(timeout=TIMEOUT_SECONDS)


async def _is_pooled(connection: asyncpg.Connection) -> bool:
    """Return whether something between here and the server assigns connections.

    A pooler tells each client a process id of its own invention, for cancel requests.
    """
    return bool(await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid())


async def _connect_to_first(hosts: list[dict[str, Any]]) -> asyncpg.Connection:
    *others, last = hosts
    for arguments in others:
        with contextlib.suppress(*_NEXT_HOST_ERRORS):
            return await asyncpg.connect(**arguments)
    return await asyncpg.connect(**last)
