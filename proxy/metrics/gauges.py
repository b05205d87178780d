"""What a proxy process measures about itself, and asks the database, for the metrics."""

from __future__ import annotations

import time

from django.db import connection

from accounts import retention
from accounts.metrics import Counter, Gauge
from credentials.errors import KeyringError
from credentials.models import SealedKey
from credentials.vault import keyring
from proxy.application import ProxyApplication
from proxy.metrics import database_pool, traffic

IN_FLIGHT = Gauge("strake_in_flight", "Requests in flight, with streams and WebSocket connections.")
CONNECTIONS = Gauge(
    "strake_upstream_connections",
    "Connections to providers by state. Waiting are requests that wait for their turn to connect.",
    ["state"],
)
LAG = Gauge("strake_request_log_lag_seconds", "Time since all request records were in the database.", ["process"])
WAITING = Gauge("strake_request_log_waiting", "Request records that are not in the database yet.", ["process"])
LOST = Counter("strake_request_log_lost_total", "Request records dropped, and refusals not counted in the database.")
LOADED = Gauge("strake_master_key_loaded", "Proxy processes of this host that have loaded the master key.", ["key_id"])
PRIMARY = Gauge("strake_master_key_primary", "Proxy processes of this host that seal under the master key.", ["key_id"])
UP = Gauge("strake_database_up", "Whether the database answered when it was asked last: 1 or 0.", merge="max")
RECORDS = Gauge("strake_master_key_records", "Stored provider keys by master key.", ["key_id"], merge="max")
CLOCK = Gauge(
    "strake_clock_difference_seconds", "How far the clock of this host is ahead of that of PostgreSQL.", merge="max"
)


def measure(application: ProxyApplication, process: str) -> None:
    """Bring the metrics of an application that has started up to date. Safe to call from any thread."""
    traffic.publish()
    IN_FLIGHT.set(sum(application.in_flight.counts().values()))
    for state, number in application.pool.counts().items():
        CONNECTIONS.set(number, state)
    log = application.request_log
    LAG.set(log.lag_seconds, process)
    WAITING.set(log.waiting, process)
    LOST.set(log.lost)
    for state, number in application.lookup.connections().items():
        database_pool.POOL.set(number, "lookup", state)
    database_pool.measure()
    try:
        ring = keyring.current()
    except KeyringError:
        LOADED.replace({})
        PRIMARY.replace({})
    else:
        LOADED.replace({(key_id,): 1 for key_id in ring.ids})
        PRIMARY.replace({(ring.primary_id,): 1})


def look() -> None:
    """Ask the database. Raises its errors."""
    try:
        RECORDS.replace({(key_id,): rows for key_id, rows in SealedKey.objects.count_by_missing_key(()).items()})
        if connection.vendor == "postgresql":
            before = time.time()
            now = retention.database_now().timestamp()
            CLOCK.set((before + time.time()) / 2 - now)
    except Exception:
        UP.set(0)
        raise
    UP.set(1)
