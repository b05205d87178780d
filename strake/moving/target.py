"""The database that everything moves to: reaching it, and refusing one that holds something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.db import Error as DatabaseError
from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import QuerySet

from strake import database_roles
from strake.database_url import database_config

ALIAS = "target"
MADE_BY_MIGRATE = frozenset({"contenttypes.ContentType", "auth.Permission", "migrations.Migration"})
# Exists from the first step to the last, so that an interrupted move is told from a database that somebody uses.
_MARKER = "strake_move"
_PARTITIONS = """
    SELECT relname::text FROM pg_class
    WHERE relispartition AND relkind = 'r' AND relnamespace = current_schema()::regnamespace
"""


class MoveError(Exception):
    """Nothing has moved, or not everything. The source is as it was. The message says what to do."""


@contextmanager
def opened(url: str) -> Iterator[BaseDatabaseWrapper]:
    """A connection to the target, which models reach as `ALIAS`. Raises `ImproperlyConfigured` or `MoveError`."""
    connections.databases[ALIAS] = connections.configure_settings(
        {"default": settings.DATABASES["default"], ALIAS: database_config(url)}
    )[ALIAS]
    target = connections[ALIAS]
    try:
        target.ensure_connection()
        yield target
    except DatabaseError as error:
        raise MoveError(f"PostgreSQL: {str(error).strip().partition(chr(10))[0]}") from None
    finally:
        target.close()
        del connections[ALIAS]
        del connections.databases[ALIAS]


def prepare(target: BaseDatabaseWrapper) -> None:
    """Create the tables in an empty target, or continue with one that a move of the same source left. Else `MoveError`.

    A source is known by its path.
    """
    source = str(connection.settings_dict["NAME"])
    tables = set(target.introspection.table_names())
    with target.cursor() as cursor:
        if _MARKER not in tables:
            _check_empty(target, tables)
            cursor.execute("CREATE TABLE strake_move (source text NOT NULL)")
            cursor.execute("INSERT INTO strake_move VALUES (%s)", [source])
        else:
            cursor.execute("SELECT source FROM strake_move")
            [found] = cursor.fetchone() or [""]
            if found != source:
                raise MoveError(f"A move from {found} into this database has not finished. Choose an empty database.")
    call_command("migrate", database=ALIAS, verbosity=0, interactive=False)


def finish(target: BaseDatabaseWrapper) -> None:
    """From now on, the target is an ordinary database. Call it in the last transaction."""
    with target.cursor() as cursor:
        cursor.execute("DROP TABLE strake_move")


def _check_empty(target: BaseDatabaseWrapper, tables: set[str]) -> None:
    own = database_roles.models()
    with target.cursor() as cursor:
        cursor.execute(_PARTITIONS)
        partitions = {name for (name,) in cursor.fetchall()}
    if foreign := sorted(tables - {model._meta.db_table for model in own.values()} - partitions):
        raise MoveError(f"The database has tables of something else: {', '.join(foreign[:5])}. Choose an empty one.")
    for label, model in own.items():
        rows: QuerySet[Any] = QuerySet(model, using=ALIAS)  # not by a manager, which may leave rows out
        if label not in MADE_BY_MIGRATE and model._meta.db_table in tables and rows.exists():
            raise MoveError(f"The database has rows in {model._meta.db_table}. Choose an empty one.")
