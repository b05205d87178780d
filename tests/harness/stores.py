"""Ways in which the database goes away, is changed meanwhile without Strake, and comes back."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from tests.support.postgres import PASSWORD, ROLE, SUPERUSER, Cluster
from tests.support.upstream import eventually

# Ends of access, each with the field of `Access` that names the row.
EDITS = {
    "revoke": ("UPDATE credentials_bearertoken SET revoked_at = CURRENT_TIMESTAMP WHERE id = ?", "token_id"),
    "remove": ("DELETE FROM credentials_bearertoken WHERE id = ?", "token_id"),
    "pause": ("UPDATE credentials_endpoint SET paused_at = CURRENT_TIMESTAMP WHERE subdomain = ?", "subdomain"),
    "suspend": ("UPDATE accounts_user SET suspended_at = CURRENT_TIMESTAMP WHERE email = ?", "email"),
}


class Outage:
    """One way. `begin`, `edit` and `end` are called in this order."""

    name: str
    edits = tuple(EDITS)
    touches = 0  # how often `touch` is called after `end`, each time after one request to each process

    def prepare(self, token_id: str) -> None:
        """Called while Strake serves."""

    def begin(self) -> None:
        """Take the database away."""

    def edit(self, sql: str, value: str) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """Bring the database back."""

    def touch(self) -> None:
        """Commit a change that means nothing."""


# --- SQLite --------------------------------------------------------------------------------------------------------


class SQLiteOutage(Outage):
    def __init__(self, database: Path) -> None:
        self._database = database
        self._copy = database.with_suffix(".copy")

    def begin(self) -> None:
        with _sqlite(self._database) as live, _sqlite(self._copy) as copy:
            live.backup(copy)

    def edit(self, sql: str, value: str) -> None:
        with _sqlite(self._copy) as copy:
            copy.execute(sql, [value])


class RestoredOnline(SQLiteOutage):
    """A backup, in which access has ended, is restored into the database by SQLite while Strake serves."""

    name = "restored by .restore"

    def edit(self, sql: str, value: str) -> None:
        super().edit(sql, value)
        with _sqlite(self._copy) as copy, _sqlite(self._database) as live:
            copy.backup(live)


class ReplacedFile(SQLiteOutage):
    """A table is missing, so that every process closes its connection. Then another file takes the place of this one.

    `PRAGMA data_version` counts from the same number on in every connection. So each process first gets a connection
    in which the number is small, then uses the token at a number a little higher, and the touches let the connection to
    the other file pass that one. The request log adds a few.
    """

    name = "file replaced"
    raised = 5
    touches = 9  # a token that was refused ten times is not looked up for a second

    def hide(self) -> None:
        self._execute("ALTER TABLE credentials_bearertoken RENAME TO away")

    def show(self) -> None:
        self._execute("ALTER TABLE away RENAME TO credentials_bearertoken")

    def begin(self) -> None:
        super().begin()
        self.hide()

    def end(self) -> None:
        for suffix in ("-wal", "-shm"):
            self._database.with_name(self._database.name + suffix).unlink(missing_ok=True)
        self._copy.rename(self._database)

    def touch(self) -> None:
        self._execute("UPDATE credentials_bearertoken SET last_used_at = last_used_at")

    def _execute(self, sql: str) -> None:
        with _sqlite(self._database) as live:
            live.execute(sql)


@contextlib.contextmanager
def _sqlite(database: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(database, timeout=10, isolation_level=None)) as connection:
        yield connection


# --- PostgreSQL ----------------------------------------------------------------------------------------------------


class PostgreSQLOutage(Outage):
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def edit(self, sql: str, value: str) -> None:
        self._execute(sql.replace("?", "%s"), value)

    def _stop(self) -> None:
        """Kill the server, without a loss of what is committed."""
        self._execute("CHECKPOINT")
        self._cluster.stop()

    def _execute(self, statement: str, *values: object) -> list[Any]:
        """Run a statement as the superuser, over the Unix socket, in a transaction that survives the server."""
        with psycopg.connect(
            host=str(self._cluster.folder),
            port=self._cluster.port,
            user=SUPERUSER,
            password=PASSWORD,
            dbname="strake",
            options="-c synchronous_commit=on",
            autocommit=True,
        ) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []


class DroppedConnections(PostgreSQLOutage):
    """Every connection of Strake is dropped, and its role refused for a while."""

    name = "connections dropped"

    def begin(self) -> None:
        self._execute(f"ALTER ROLE {ROLE} NOLOGIN")
        terminated = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
        eventually(lambda: not self._execute(terminated, ROLE))

    def end(self) -> None:
        self._execute(f"ALTER ROLE {ROLE} LOGIN")


class Restarted(PostgreSQLOutage):
    """The server is killed and started again, first without its port."""

    name = "server restarted"

    def begin(self) -> None:
        self._stop()
        self._cluster.start_without_port()

    def end(self) -> None:
        self._stop()
        self._cluster.start()


class RestoredCluster(PostgreSQLOutage):
    """The server's files are replaced by older ones, in which access ends in a row of the same version.

    Transactions are numbered from where the older files end. So a row may get the `xmin` of another content that the
    processes have seen in the files before.
    """

    name = "cluster restored"
    edits = ("revoke",)

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._data, self._backup = cluster.folder / "data", cluster.folder / "backup"
        self._version = 0

    def prepare(self, token_id: str) -> None:
        self._stop()
        subprocess.run(["cp", "-a", str(self._data), str(self._backup)], check=True)
        self._cluster.start()

    def note(self, token_id: str) -> None:
        self._execute("UPDATE credentials_bearertoken SET last_used_at = last_used_at WHERE id = %s", token_id)
        self._version = self._version_of(token_id)

    def begin(self) -> None:
        self._stop()
        subprocess.run(["rm", "-r", str(self._data)], check=True)
        self._backup.rename(self._data)
        self._cluster.start_without_port()

    def edit(self, sql: str, value: str) -> None:
        while self._execute("SELECT pg_current_xact_id()::text::bigint")[0][0] < self._version - 1:
            pass
        super().edit(sql, value)
        if self._version_of(value) != self._version:
            raise RuntimeError("The row did not get the version of the one before.")

    def _version_of(self, token_id: str) -> int:
        [(version,)] = self._execute("SELECT xmin::text::bigint FROM credentials_bearertoken WHERE id = %s", token_id)
        return int(version)

    end = Restarted.end
