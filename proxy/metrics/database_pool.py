"""The connections of a process to PostgreSQL, for the metrics."""

from __future__ import annotations

from django.db import connection

from accounts.metrics import Gauge

POOL = Gauge(
    "strake_database_connections",
    "Connections to PostgreSQL by pool and state. The look-up has a pool of its own. Waiting are those who want one.",
    ["pool", "state"],
)


def measure() -> None:
    """Measure the pool that everything but the look-up shares, if the database is PostgreSQL."""
    if connection.vendor != "postgresql" or (pool := getattr(connection, "pool", None)) is None:
        return
    found = pool.get_stats()
    idle = found.get("pool_available", 0)
    POOL.set(found.get("pool_size", 0) - idle, "general", "used")
    POOL.set(idle, "general", "idle")
    POOL.set(found.get("requests_waiting", 0), "general", "waiting")
