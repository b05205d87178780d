"""The database: reachable, recent enough, encrypted, migrated, and with room for every connection of Strake."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader

from accounts import database_errors
from credentials.vault import heartbeats
from credentials.vault.models import ServerProcess
from proxy.access import postgresql_connections
from strake.health.findings import BAD, GOOD, WARN, Finding

OLDEST_POSTGRESQL = 14  # as Django demands
_SESSION = """
    SELECT current_user, rolsuper, current_setting('server_version'),
        current_setting('server_version_num')::int / 10000,
        coalesce((SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()), ''),
        EXISTS (SELECT FROM pg_class WHERE relname = 'accounts_user' AND relowner = pg_roles.oid)
    FROM pg_roles WHERE rolname = current_user
"""
# A limit of -1 means none. Connections that only superusers may open are no use.
_SLOTS = """
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
        (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
        (SELECT count(*) FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND datname IS DISTINCT FROM current_database())
"""


def look() -> Iterator[Finding]:
    """What there is to say about the database. The first finding is `BAD` if nothing can be read from it."""
    alone = connection.copy()
    alone.settings_dict["OPTIONS"].pop("pool", None)  # a pool only says that it has waited
    try:
        alone.ensure_connection()
        yield from _sqlite(alone) if alone.vendor == "sqlite" else _postgresql(alone)
        yield _migrations(alone)
        if alone.vendor == "postgresql":
            yield _slots(alone)
    except DatabaseError as error:
        reason = database_errors.reason(error)
        yield Finding("Database", BAD, f"{_name(alone)}: {reason}. {database_errors.advice(reason)}")
    finally:
        alone.close()


def look_as_proxy() -> Iterator[Finding]:
    """What the proxy half would meet, if that differs: it connects to PostgreSQL with another driver."""
    if connection.vendor == "postgresql":
        try:
            asyncio.run(postgresql_connections.connect_once(connection.settings_dict))
        except postgresql_connections.STORE_ERRORS as error:
            words = f"the proxy half cannot connect: {type(error).__name__}: {database_errors.reason(error)}."
            yield Finding("Database", BAD, f"{words} Are the options in DATABASE_URL right, and its files readable?")


def _name(database: BaseDatabaseWrapper) -> str:
    values = database.settings_dict
    if database.vendor == "sqlite":
        return str(values["NAME"])
    return f"{values['NAME']} at {values['HOST']}, port {values['PORT']}"


def _sqlite(database: BaseDatabaseWrapper) -> Iterator[Finding]:
    [version] = _row(database, "SELECT sqlite_version()")
    path = Path(database.settings_dict["NAME"])
    size = path.stat().st_size if path.exists() else 0
    free = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
    words = f"SQLite {version}, {path}, {size / 1e6:.0f} MB"
    if size and free < size:
        yield Finding("Database", WARN, f"{words}. The disk has not enough room for a copy of it, {free / 1e6:.0f} MB.")
    else:
        yield Finding("Database", GOOD, words)


def _postgresql(database: BaseDatabaseWrapper) -> Iterator[Finding]:
    role, is_superuser, version, major, tls, is_owner = _row(database, _SESSION)
    words = f"PostgreSQL {version}, {_name(database)}, {tls or 'without TLS'}"
    if major < OLDEST_POSTGRESQL:
        yield Finding("Database", BAD, f"{words}. Strake needs PostgreSQL {OLDEST_POSTGRESQL} or later.")
    else:
        yield Finding("Database", GOOD, words)
    if is_superuser:
        words = f"{role} is a superuser, who can read and change everything. Use a role that owns this database only."
        yield Finding("Database role", WARN, words)
    else:
        yield Finding("Database role", GOOD, f"{role}, {'the owner' if is_owner else 'not the owner'} of the tables")


def _migrations(database: BaseDatabaseWrapper) -> Finding:
    loader = MigrationLoader(database)
    if pending := sorted(set(loader.disk_migrations) - set(loader.applied_migrations)):
        app, name = pending[0]
        return Finding("Migrations", BAD, f"{len(pending)} are missing, first {app}.{name}. Run: manage.py migrate")
    # Migrations of an app that is gone, such as Django's admin, stay applied.
    applied = {name for name in loader.applied_migrations if name[0] in loader.migrated_apps}
    if unknown := sorted(applied - set(loader.disk_migrations)):
        app, name = unknown[0]
        words = f"The database is newer than this code, which does not know {app}.{name}. Upgrade this host."
        return Finding("Migrations", WARN, words)
    return Finding("Migrations", GOOD, "all applied")


def connections_needed(proxies: int, webs: int) -> int:
    """How many connections these processes open at most: a proxy process has two pools, and a web process one."""
    return (2 * proxies + webs) * settings.STRAKE_DATABASE_CONNECTIONS


def _slots(database: BaseDatabaseWrapper) -> Finding:
    usable, limit, others = _row(database, _SLOTS)
    if limit >= 0:
        usable = min(usable, limit)
    proxies, webs = _processes()
    needed = connections_needed(proxies, webs)
    words = f"{usable} allowed, {others} used by other databases, Strake needs {needed} at most"
    if needed > usable - others:
        return Finding("Connections", WARN, f"{words}. Raise max_connections, or run fewer worker processes.")
    return Finding("Connections", GOOD, words)


def _processes() -> tuple[int, int]:
    """Proxy and web processes: those that run on all hosts, or if there are none, those that this host would start."""
    try:
        kinds = list(heartbeats.running().values_list("kind", flat=True))
    except DatabaseError:
        kinds = []  # not migrated
    proxies = kinds.count(ServerProcess.Kind.PROXY) or settings.WEB_CONCURRENCY or os.cpu_count() or 1
    return proxies, kinds.count(ServerProcess.Kind.WEB) or settings.STRAKE_WEB_WORKERS


def _row(database: BaseDatabaseWrapper, statement: str) -> tuple[Any, ...]:
    with database.cursor() as cursor:
        cursor.execute(statement)
        found: tuple[Any, ...] = cursor.fetchone()
    return found
