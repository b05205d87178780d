"""Deleting for good."""

from __future__ import annotations

import logging

from django.db import connection, transaction

logger = logging.getLogger(__name__)


def erase_deleted() -> None:
    """Let nothing of what this transaction deletes or replaces stay in SQLite's files. Call it inside the transaction.

    SQLite keeps the pages it has changed in its write-ahead log for a while, and with them what was deleted. PostgreSQL
    offers nothing like it: SECURITY.md says what stays in its files, and for how long.
    """
    if connection.vendor == "sqlite":
        transaction.on_commit(_empty_write_ahead_log)


def _empty_write_ahead_log() -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (busy, *_) = cursor.fetchone()
    if busy:  # somebody else has been reading all the time that this waited; the next deletion or stop empties it
        logger.warning("write_ahead_log_not_emptied")
