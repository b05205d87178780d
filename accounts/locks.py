"""Doing things one after the other across processes."""

from __future__ import annotations

import hashlib

from django.db import connection


def serialise(name: str) -> None:
    """Hold the lock `name` until the current transaction ends; whoever asks for it meanwhile waits.

    SQLite needs none: Strake's transactions take its one write lock when they begin.
    """
    if connection.vendor == "postgresql":
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [key])
