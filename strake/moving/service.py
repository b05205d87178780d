"""Copying every row, and checking that all of them arrived.

What only grows, audit events and request records, is copied in batches that a killed move does not repeat. Everything
else follows in one transaction with the checks, so the target is either complete or says that it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import psycopg
from django.core.management.color import no_style
from django.db import connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.db.models import JSONField, Max, Model, QuerySet
from psycopg import sql

from credentials.vault import heartbeats, keyring
from proxy import vault_check
from strake import database_roles
from strake.moving import target as targets
from strake.moving.target import ALIAS, MADE_BY_MIGRATE, MoveError

BATCH_ROWS = 20_000
# Links of the audit chain come before their events: PostgreSQL's triggers compare them, and chain what has no link.
_GROWING = ("accounts.AuditLink", "accounts.AuditEvent", "proxy.RequestRecord")
_LEFT_BEHIND = MADE_BY_MIGRATE | {"credentials.ServerProcess"}  # the processes of the source

Progress = Callable[[str, int, int], None]  # the table, and how many of its rows were copied of how many


@dataclass(frozen=True, slots=True)
class Moved:
    """What arrived: the rows of each table, and the sealed keys that were opened to check them."""

    rows: dict[str, int]
    sealed_keys: int


def move(*, url: str, progress: Progress = lambda table, done, total: None) -> Moved:
    """Copy this SQLite database to the PostgreSQL database of `url`, which must be empty or half moved.

    Nobody can write to the source meanwhile, and nothing in it changes. Safe to kill and run again. Raises `MoveError`
    or `ImproperlyConfigured`.
    """
    _check_source()
    with targets.opened(url) as target:
        targets.prepare(target)
        try:
            with transaction.atomic():  # takes SQLite's write lock
                return _move(target, progress)
        except psycopg.Error as error:
            raise MoveError(f"PostgreSQL: {str(error).strip().partition(chr(10))[0]}") from None


def _check_source() -> None:
    if connection.vendor != "sqlite":
        raise MoveError("This Strake uses PostgreSQL already. To move it, use `backup` and `restore`.")
    executor = MigrationExecutor(connection)
    if set(executor.loader.disk_migrations) - set(executor.loader.applied_migrations):
        raise MoveError("The database is not up to date. Run first: manage.py migrate")
    if running := [process.name for process in heartbeats.running().only("name")]:
        raise MoveError(f"Strake is running: {', '.join(running)}. Stop it first, so that nothing is left behind.")


def _move(target: BaseDatabaseWrapper, progress: Progress) -> Moved:
    models = _in_order()
    known = {model._meta.label: model for model in models}
    growing = [known[label] for label in _GROWING if label in known]
    for model in growing:
        _continue(model, target, progress)
    with transaction.atomic(using=ALIAS):
        for model in models:
            if model in growing:
                continue
            _copy(_rows(model), target)
            progress(model._meta.db_table, 1, 1)
        _set_sequences(target)
        rows = _compare()
        sealed_keys = _check_vault()
        targets.finish(target)
    return Moved(rows, sealed_keys)


def _in_order() -> list[type[Model]]:
    """Every model to copy, after those that it refers to."""
    models = [model for label, model in database_roles.models().items() if label not in _LEFT_BEHIND]
    sorter: TopologicalSorter[type[Model]] = TopologicalSorter()
    for model in sorted(models, key=lambda one: one._meta.label):
        related = {field.related_model for field in model._meta.concrete_fields if field.is_relation}
        sorter.add(model, *(one for one in models if one in related and one is not model))
    return list(sorter.static_order())


def _rows(model: type[Model], using: str = "default") -> QuerySet[Any]:
    """Not by a manager, since some load a part of the columns only."""
    return QuerySet(model, using=using).order_by("pk")


# --- Copying ---------------------------------------------------------------------------------------------------------


def _continue(model: type[Model], target: BaseDatabaseWrapper, progress: Progress) -> None:
    """Copy the rows after the last one that has arrived."""
    last = _rows(model, ALIAS).order_by().aggregate(last=Max("pk"))["last"] or 0
    rows = _rows(model)
    total, done = rows.count(), rows.filter(pk__lte=last).count()
    while batch := _copy(rows.filter(pk__gt=last)[:BATCH_ROWS], target):
        done += batch.rows
        last = batch.last
        progress(model._meta.db_table, done, total)


@dataclass(frozen=True, slots=True)
class _Batch:
    rows: int
    last: Any

    def __bool__(self) -> bool:
        return self.rows > 0


def _copy(rows: QuerySet[Any], target: BaseDatabaseWrapper) -> _Batch:
    """Copy rows with COPY, in a transaction."""
    fields = rows.model._meta.concrete_fields
    json = [number for number, field in enumerate(fields) if isinstance(field, JSONField)]
    primary = [field.primary_key for field in fields].index(True)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(rows.model._meta.db_table),
        sql.SQL(", ").join(sql.Identifier(field.column) for field in fields),
    )
    number, last = 0, None
    with transaction.atomic(using=ALIAS), target.cursor() as cursor, cursor.copy(statement) as copy:
        for found in rows.values_list(*(field.attname for field in fields)).iterator(chunk_size=2000):
            row = list(found)
            for index in json:
                row[index] = fields[index].get_db_prep_save(row[index], target)
            copy.write_row(row)
            number, last = number + 1, found[primary]
    return _Batch(number, last)


def _set_sequences(target: BaseDatabaseWrapper) -> None:
    with target.cursor() as cursor:
        for statement in target.ops.sequence_reset_sql(no_style(), _in_order()):
            cursor.execute(statement)
        # Not the id of an event that was erased: its link stays.
        cursor.execute(
            "SELECT setval(pg_get_serial_sequence('accounts_auditevent', 'id'), event_id) FROM accounts_auditlink "
            "ORDER BY event_id DESC LIMIT 1"
        )


# --- Checking --------------------------------------------------------------------------------------------------------


def _compare() -> dict[str, int]:
    """Count the rows of every table on both sides. Raises `MoveError` if a number differs."""
    counts = {}
    for model in _in_order():
        table = model._meta.db_table
        counts[table], arrived = _rows(model).order_by().count(), _rows(model, ALIAS).order_by().count()
        if arrived != counts[table]:
            raise MoveError(
                f"{table} has {counts[table]} rows here and {arrived} in PostgreSQL. Something has changed one of "
                "them since the move began. Run this again with an empty database."
            )
    return counts


def _check_vault() -> int:
    """Open every sealed key in its new row. Raises `MoveError` if one opens here and not there."""
    ring = keyring.current()
    total, broken = vault_check.check(ring, using=ALIAS)
    _, known = vault_check.check(ring)
    if worse := broken.keys() - known.keys():
        raise MoveError(f"{len(worse)} sealed keys do not decrypt in PostgreSQL. The keys here are as they were.")
    return total
