"""Migrations: one host at a time, never a queue behind one, servers that wait, and old code on the new schema."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from django.db.migrations import operations
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.models import NOT_PROVIDED

from accounts.transactions import lock_key
from tests.strake.test_deployed import deployed_environment
from tests.support.running import ROOT, Strake
from tests.support.upstream import eventually


@contextmanager
def migrating(strake: Strake, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "manage.py", "migrate", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, env=strake.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.postgres
def test_second_host_waits_and_finds_nothing_to_do(tmp_path: Path, postgres_url: str) -> None:
    strake = Strake(tmp_path / "home", {"DATABASE_URL": postgres_url})
    with psycopg.connect(postgres_url) as first:
        first.execute("SELECT pg_advisory_xact_lock(%s)", [lock_key("migrate")])
        with migrating(strake, "auth") as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "Another host is migrating. Waiting for it.\n"
            assert not has_table(postgres_url, "django_migrations")
            first.rollback()
            assert "Applying auth.0001_initial" in second.communicate(timeout=120)[0]
            assert second.returncode == 0


@pytest.mark.postgres
def test_nobody_waits_behind_a_migration_that_waits(tmp_path: Path, postgres_url: str) -> None:
    """A transaction that has read a table keeps the migration from changing it, and nobody else from reading it."""
    strake = Strake(tmp_path / "home", {"DATABASE_URL": postgres_url})
    strake.manage("migrate", "accounts", "0001", "-v0", check=True)
    with psycopg.connect(postgres_url) as reader, migrating(strake, "accounts", "-v0") as migration:
        reader.execute("SELECT FROM accounts_user")
        eventually(lambda: is_waiting(postgres_url), 120)
        with psycopg.connect(postgres_url, options="-c statement_timeout=30s") as other:
            other.execute("SELECT FROM accounts_user")
        reader.rollback()
        output = migration.communicate(timeout=120)[0]
        assert migration.returncode == 0, output


def is_waiting(url: str) -> bool:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'accounts_user'::regclass"
        ).fetchone()
    return bool(row and row[0])


def has_table(url: str, name: str) -> bool:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone()
    return bool(row and row[0])


@pytest.mark.postgres
@pytest.mark.redis
def test_server_waits_for_the_migrations(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    strake = Strake(
        tmp_path / "home",
        deployed_environment(tmp_path, postgres_url, redis_url),
        command=("manage.py", "serve", "--only=proxy", "--wait-for-migrations", "300"),
    )
    process = strake.launch()
    try:
        eventually(lambda: "Waiting for manage.py migrate, for 300 seconds at most" in strake.log(), 120)
        assert process.poll() is None
        strake.manage("migrate", "-v0", check=True)
        eventually(lambda: is_ready(strake), 120)
    finally:
        strake.stop()


def is_ready(strake: Strake) -> bool:
    try:
        return httpx.get(strake.url + "/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


# --- Old code on the new schema ------------------------------------------------------------------------------------

CONTRACTING = {"credentials.0005_sealed_key"}  # of before the rule


def test_migrations_only_expand() -> None:
    """During an upgrade, servers of the version before read and write the new tables.

    A column that they do not know must have a value without them, and one that they know must stay. What is contracted
    later than that is listed above.
    """
    loader = MigrationLoader(None)
    contracting = {
        f"{app}.{name}"
        for (app, name), migration in loader.disk_migrations.items()
        if app in {"accounts", "credentials", "proxy"} and not migration.initial
        for operation in database_operations(migration.operations)
        if breaks_the_version_before(operation)
    }
    assert contracting == CONTRACTING


def database_operations(steps: Sequence[Operation]) -> Iterator[Operation]:
    for operation in steps:
        if isinstance(operation, operations.SeparateDatabaseAndState):
            yield from database_operations(operation.database_operations)
        else:
            yield operation


def breaks_the_version_before(operation: Operation) -> bool:
    if isinstance(operation, operations.AddField):
        field = operation.field
        has_db_default = getattr(field, "db_default", NOT_PROVIDED) is not NOT_PROVIDED
        return not (field.null or has_db_default or field.many_to_many)
    gone = (operations.RemoveField, operations.DeleteModel, operations.RenameField, operations.RenameModel)
    return isinstance(operation, (*gone, operations.AlterModelTable))
