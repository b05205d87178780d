"""Dumps of SQLite: an online copy, which waits for nobody and blocks nobody."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from django.db import connection

from strake.backups import contents
from strake.backups.archive import BackupError, Contents, DamagedBackup, Writer

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
_EMPTY = 'DELETE FROM "{}"'


def dump(stream: Writer, folder: Path) -> Contents:
    """Copy the database as it is at one moment (https://sqlite.org/backup.html). Raises `BackupError`."""
    path = folder / "copy.sqlite3"
    with _opened(path) as copy:
        taken_at = datetime.now(UTC).isoformat()
        connection.ensure_connection()
        connection.connection.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        _check(copy)
        found = _read(copy, taken_at)
    with path.open("rb") as file:
        shutil.copyfileobj(file, stream, 1024 * 1024)
    path.unlink()
    return found


def verify(stream: IO[bytes], folder: Path, expected: Contents) -> None:
    """Check a dump against its manifest. Raises `DamagedBackup`."""
    with _extracted(stream, folder) as copy:
        _compare(copy, expected)


def load(stream: IO[bytes], folder: Path, expected: Contents) -> None:
    """Put a dump in the place of the database, in one transaction. Raises `BackupError`.

    If the process is killed, the database is as before or as in the dump.
    """
    with _extracted(stream, folder) as copy:
        _compare(copy, expected)
        for table in contents.TRANSIENT:
            if table in expected.tables:
                copy.execute(_EMPTY.format(table))
        copy.commit()
        connection.ensure_connection()
        try:
            copy.backup(connection.connection)
        except sqlite3.Error as error:
            raise BackupError(f"The database cannot be written: {error}.") from None


def _compare(copy: sqlite3.Connection, expected: Contents) -> None:
    _check(copy)
    if _read(copy, expected.taken_at) != expected:
        raise DamagedBackup("The dump holds other rows than the manifest says.")


def _check(copy: sqlite3.Connection) -> None:
    try:
        problems = [text for (text,) in copy.execute("PRAGMA integrity_check(5)") if text != "ok"]
    except sqlite3.DatabaseError as error:
        problems = [str(error)]
    if problems:
        raise DamagedBackup(f"The database is damaged: {'; '.join(problems)}. Restore it from an earlier backup.")


def _read(copy: sqlite3.Connection, taken_at: str) -> Contents:
    def query(statement: str) -> Iterable[tuple[Any, ...]]:
        return copy.execute(statement).fetchall()

    tables = [name for (name,) in query(_TABLES)]
    return contents.read(query, database="sqlite", schema="", taken_at=taken_at, tables=tables)


@contextlib.contextmanager
def _extracted(stream: IO[bytes], folder: Path) -> Iterator[sqlite3.Connection]:
    path = folder / "dump.sqlite3"
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, 1024 * 1024)
    with _opened(path) as copy:
        yield copy
    path.unlink()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as opened:
        opened.execute("PRAGMA secure_delete = ON")
        opened.create_function("REGEXP", 2, _matches, deterministic=True)  # in constraints, as Django defines it
        yield opened


def _matches(pattern: str, text: object) -> bool | None:
    return None if text is None else re.search(pattern, str(text)) is not None
