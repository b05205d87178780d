"""Advisory locks, waiting without a database connection, and secure deletion in SQLite."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from django.db import DatabaseError, connection, transaction
from django.db.backends.utils import CursorWrapper

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 5
_ATTEMPT_MILLISECONDS = 100
_MAX_PAUSE_SECONDS = 0.2


def advisory_lock(name: str) -> None:
    """Wait for the lock `name` and hold it until the current transaction ends.

    On SQLite this does nothing: Strake's transactions take the database's only write lock when they begin.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [lock_key(name)])


def lock_key(name: str) -> int:
    """Return the number by which PostgreSQL knows the lock `name`."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)


@contextmanager
def process_lock(key: int, *, wait: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold a lock of PostgreSQL's during the block, across transactions. It ends with the process at the latest.

    It is held by a transaction on a second connection. A lock of a session would stay with the server connection behind
    a pooler such as PgBouncer. If another process has the lock, `wait` is called: it returns whether to try again, and
    may sleep. If not, raises `LockTaken`.
    """
    holder = connection.copy()
    holder.settings_dict["OPTIONS"].pop("pool", None)  # which may have no second connection to give
    try:
        holder.set_autocommit(False)
        with holder.cursor() as cursor:
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            while not _try_lock(cursor, key):
                if not wait():
                    raise LockTaken
        yield
    finally:
        with suppress(DatabaseError):  # its connection is gone, and with it the lock
            holder.rollback()
        holder.close()


class LockTaken(Exception):
    """Another process holds the lock."""


def _try_lock(cursor: CursorWrapper, key: int) -> bool:
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [key])
    (taken,) = cursor.fetchone()
    return bool(taken)


@contextmanager
def without_connection() -> Iterator[None]:
    """Do without a database connection while the block waits for another process or machine.

    PostgreSQL's goes back to the pool, so that slow destinations cannot keep all of them. SQLite's stays, since it
    blocks nobody. Raises `RuntimeError` inside a transaction, which would also hold its locks.
    """
    # As `atomic(durable=True)` does, ignore the transaction around a test.
    if not all(vars(block)["_from_testcase"] for block in connection.atomic_blocks):
        raise RuntimeError("Do not wait for other processes inside a transaction.")
    if connection.vendor != "sqlite" and not connection.in_atomic_block:
        connection.close()
    yield


def secure_delete_on_commit() -> None:
    """Remove the content that this transaction deletes or replaces from SQLite's files, once it commits.

    `PRAGMA secure_delete` (strake/settings.py) overwrites deleted content with zeros, but the write-ahead log keeps
    copies of changed pages until a checkpoint. PostgreSQL has no equivalent. SECURITY.md says what stays in its files.
    """
    if connection.vendor == "sqlite":
        transaction.on_commit(_truncate_write_ahead_log)


def _truncate_write_ahead_log() -> None:
    """Empty the log, which takes a moment without readers of the log and without a writer. Retries until there is one.

    A failed attempt is not lost: once it has copied the log into the database, new readers no longer need the log.
    """
    deadline = time.monotonic() + CHECKPOINT_SECONDS
    pause = 0.01
    with _busy_timeout(_ATTEMPT_MILLISECONDS):
        while not _checkpoint():
            if time.monotonic() + pause > deadline:
                # The content stays until a later deletion empties the log, or the last process closes the database.
                logger.warning("write_ahead_log_not_emptied seconds=%d", CHECKPOINT_SECONDS)
                return
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)


def _checkpoint() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (busy, *_) = cursor.fetchone()
    return not busy


@contextmanager
def _busy_timeout(milliseconds: int) -> Iterator[None]:
    """Limit how long SQLite itself waits. Meanwhile a checkpoint holds the write lock."""
    with connection.cursor() as cursor:
        (before,) = cursor.execute("PRAGMA busy_timeout").fetchone()
        cursor.execute(f"PRAGMA busy_timeout = {milliseconds}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {before}")
