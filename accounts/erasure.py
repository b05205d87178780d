"""Deleting for good."""

from __future__ import annotations

from django.db import connection, transaction


def erase_deleted() -> None:
    """Let nothing of what this transaction deletes stay in the database's files. Call it inside the transaction.

    SQLite keeps the pages it has changed in its write-ahead log for a while, and with them what was deleted.
    PostgreSQL overwrites when it vacuums, which it does by itself.
    """
    if connection.vendor == "sqlite":
        transaction.on_commit(_empty_write_ahead_log)


def _empty_write_ahead_log() -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
