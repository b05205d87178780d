"""The database, the cache and the disks: whether they respond, and how much they hold."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.core.cache import cache
from django.db import connection

from strake.health.findings import BAD, GOOD, WARN, Finding, duration, size

WARN_FREE_BYTES, MIN_FREE_BYTES = 1_000_000_000, 100_000_000
MAX_TABLES = 8  # of those listed with their sizes, the largest
_PAGES = "SELECT * FROM pragma_page_size, pragma_page_count, pragma_freelist_count"
# Everybody may ask for the sizes of a database that they may connect to. Only some roles may look at the WAL.
_SIZE = """
    SELECT pg_database_size(current_database()), has_function_privilege('pg_ls_waldir()', 'EXECUTE')
"""
_WAL_SIZE = "SELECT coalesce(sum(size), 0) FROM pg_ls_waldir()"
# The rows are those of the last ANALYZE, since counting a large table takes seconds. Partitions count for their whole.
_TABLES = """
    SELECT whole.relname, sum(pg_total_relation_size(part.oid)), sum(greatest(part.reltuples, 0))
    FROM pg_class AS part
    LEFT JOIN pg_inherits ON inhrelid = part.oid
    JOIN pg_class AS whole ON whole.oid = coalesce(inhparent, part.oid)
    WHERE part.relnamespace = current_schema()::regnamespace AND part.relkind = 'r'
    GROUP BY whole.relname ORDER BY 2 DESC LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The bytes that the database takes. `wal` is None if this role may not know, `free` if that is not meant here.

    `free` bytes of the database's file are unused, and filled before it grows.
    """

    database: int
    wal: int | None
    free: int | None = None

    @property
    def words(self) -> str:
        parts = [size(self.database)]
        if self.free:
            parts.append(f"{size(self.free)} of it free")
        parts.append("write-ahead log not visible to this role" if self.wal is None else f"WAL {size(self.wal)}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its indexes: its bytes, and about how many rows it has."""

    name: str
    bytes: int
    rows: int

    @property
    def size(self) -> str:
        return size(self.bytes)


def asked(name: str, ask: Callable[[], Finding]) -> Finding:
    """The finding of `ask`, or that the store that it asks does not respond."""
    try:
        return ask()
    except Exception as error:  # noqa: BLE001  (each store raises other errors, and one line must not break the page)
        return Finding(name, BAD, f"does not respond ({type(error).__name__})")


def timed(name: str, probe: Callable[[], object]) -> Finding:
    """Whether a store responds to `probe`, and how fast."""

    def ask() -> Finding:
        start = time.perf_counter()
        probe()
        return Finding(name, GOOD, f"responds in {duration(time.perf_counter() - start)}")

    return asked(name, ask)


def ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def ask_cache() -> None:
    cache.set("strake.health", "1", 10)
    if cache.get("strake.health") != "1":
        raise LookupError


def sizes() -> Sizes:
    """How much the database takes. Raises the database's errors."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(_PAGES)
            page, pages, free = cursor.fetchone()
            return Sizes(page * pages, _file_size(f"{connection.settings_dict['NAME']}-wal"), page * free)
        cursor.execute(_SIZE)
        total, may_see_wal = cursor.fetchone()
        if not may_see_wal:
            return Sizes(total, None)
        cursor.execute(_WAL_SIZE)
        [wal] = cursor.fetchone()
        return Sizes(total, int(wal))


def tables() -> list[Table]:
    """The largest tables. None on SQLite, which would read the whole file to find out."""
    if connection.vendor == "sqlite":
        return []
    with connection.cursor() as cursor:
        cursor.execute(_TABLES, [MAX_TABLES])
        return [Table(name, int(total), int(rows)) for name, total, rows in cursor.fetchall()]


def version() -> str:
    """The version of the database."""
    return sqlite3.sqlite_version if connection.vendor == "sqlite" else str(getattr(connection, "pg_version", ""))


def disks() -> Iterator[Finding]:
    """The room on the disks of this host that Strake writes to."""
    folders = [Path("/var/log")]
    if settings.STRAKE_EMBEDDED:
        folders.insert(0, settings.STRAKE_HOME.path)
    seen = set()
    for folder in filter(Path.exists, folders):
        if (device := folder.stat().st_dev) in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(folder).free
        state = BAD if free < MIN_FREE_BYTES else WARN if free < WARN_FREE_BYTES else GOOD
        yield Finding("Disk", state, f"the disk with {folder} has {free / 1e9:.1f} GB left")


def _file_size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
