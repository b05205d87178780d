"""Dumps of PostgreSQL, with its own programs pg_dump, pg_restore and psql.

They get the password in their environment and everything else in a file of this user: nothing in their arguments, which
every user of the machine can read.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from django.db import connection, transaction

from strake import database_roles
from strake.backups import contents
from strake.backups.archive import BackupError, Contents, DamagedBackup, Writer
from strake.env import Environment

_PASSED_ON = {"PATH", "HOME", "LANG", "LC_ALL"}
_CHUNK = 1024 * 1024
_TABLES = """
    SELECT relname::text FROM pg_class
    WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = current_schema()::regnamespace
"""
# Tables and functions of any version of Strake. Dropping a table fires no trigger, so the audit log does not refuse.
_EMPTY = """
DO $$ DECLARE found record; BEGIN
    FOR found IN SELECT oid::regclass AS name FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
        AND relnamespace = '{schema}'::regnamespace AND relname ~ '^(accounts|auth|credentials|django|proxy|strake)_'
    LOOP EXECUTE format('DROP TABLE %s CASCADE', found.name); END LOOP;
    FOR found IN SELECT oid::regprocedure AS name FROM pg_proc
        WHERE pronamespace = '{schema}'::regnamespace AND proname ~ '{functions}'
    LOOP EXECUTE format('DROP FUNCTION %s CASCADE', found.name); END LOOP;
END $$;
"""
_DELETE = 'DELETE FROM {schema}."{name}";'
_COMPARE = """
DO $$ BEGIN IF (SELECT count(*) FROM {table}) <> {rows} THEN RAISE EXCEPTION 'other rows in {table}'; END IF; END $$;
"""


def dump(stream: Writer, folder: Path) -> Contents:
    """Dump the database as it is at one moment. Nobody waits meanwhile, but for migrations. Raises `BackupError`."""
    with transaction.atomic(), connection.cursor() as cursor:
        # pg_dump reads the same snapshot as the counts.
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SELECT pg_export_snapshot(), now(), current_schema()")
        snapshot, taken_at, schema = cursor.fetchone()

        def query(statement: str) -> Iterable[tuple[Any, ...]]:
            cursor.execute(statement)
            return list(cursor.fetchall())

        tables = [name for (name,) in query(_TABLES)]
        found = contents.read(query, database="postgresql", schema=schema, taken_at=taken_at.isoformat(), tables=tables)
        # Not compressed: the archive compresses.
        options = ["--format=custom", "--compress=0", "--no-password", f"--snapshot={snapshot}"]
        with _program(folder, "pg_dump", *options, stdout=subprocess.PIPE) as running:
            shutil.copyfileobj(_pipe(running.stdout), stream, _CHUNK)
    return found


def verify(stream: IO[bytes], folder: Path, expected: Contents) -> None:
    """Have pg_restore read a dump to its end. Raises `BackupError`."""
    with _script(stream, folder, subprocess.DEVNULL):
        pass


def load(stream: IO[bytes], folder: Path, expected: Contents) -> None:
    """Put a dump in the place of Strake's tables, in one transaction.

    The rights in the dump are of roles that may not exist here, so they are left out. PUBLIC has the rights of a
    migrated database, and roles get theirs by `grant_roles`. Raises `BackupError`, and then nothing has been changed.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(current_schema())")
        [schema] = cursor.fetchone()
    options = ["--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--file=-"]
    psql = _program(folder, "psql", *options, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    with psql as running, contextlib.closing(_pipe(running.stdin)) as statements:
        _send(statements, "BEGIN;", _EMPTY.format(schema=schema, functions=database_roles.OWN_FUNCTIONS))
        try:
            with _script(stream, folder, statements):
                pass
        except BackupError:
            statements.close()
            if running.wait() == 0:
                raise  # otherwise, psql's reason is the cause
        else:
            # Only now is the script complete. Without COMMIT, psql ends and PostgreSQL changes nothing.
            _send(statements, *_after(schema, expected), "COMMIT;")


def _after(schema: str, expected: Contents) -> Iterator[str]:
    for name, rows in expected.tables.items():
        yield _COMPARE.format(table=f'{schema}."{name}"', rows=rows)
    for name in contents.TRANSIENT:
        if name in expected.tables:
            yield _DELETE.format(schema=schema, name=name)
    yield f"{database_roles.close_functions(schema).as_string()};"


def _send(stream: IO[bytes], *statements: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # it has ended, and says why
        stream.write("\n".join([*statements, ""]).encode())
        stream.flush()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise TypeError("not a pipe")
    return stream


@contextlib.contextmanager
def _script(stream: IO[bytes], folder: Path, output: int | IO[bytes]) -> Iterator[None]:
    """Have pg_restore write the dump in `stream` to `output`, as statements."""
    options = ["--file=-", "--no-owner", "--no-privileges"]
    with _program(folder, "pg_restore", *options, stdin=subprocess.PIPE, stdout=output) as running:
        with contextlib.suppress(BrokenPipeError), contextlib.closing(_pipe(running.stdin)) as source:
            shutil.copyfileobj(stream, source, _CHUNK)
        yield


@contextlib.contextmanager
def _program(folder: Path, name: str, *options: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of PostgreSQL. Raises `BackupError` with the last line that it says, if it fails."""
    if (path := shutil.which(name)) is None:
        raise BackupError(f"{name} is not installed. On Debian: apt-get install postgresql-client")
    said = folder / f"{name}.said"
    with said.open("wb") as errors:
        running = subprocess.Popen(  # noqa: S603  (a fixed command line)
            [path, *options], env=_environment(folder), stderr=errors, **streams
        )
        try:
            with running:
                yield running
        except BaseException:
            running.kill()
            raise
    if running.returncode:
        lines = said.read_text(errors="replace").strip().splitlines()
        found = [text for line in lines if (text := re.split("(?:ERROR|FATAL|error): +", line)[-1]) != line]
        reason = next(iter(found), f"exit code {running.returncode}")
        failure = DamagedBackup if name == "pg_restore" else BackupError
        raise failure(f"{name} failed: {reason}")


def _environment(folder: Path) -> dict[str, str]:
    """The environment of a program: how to reach the database, and nothing of Strake's own variables."""
    options = connection.settings_dict["OPTIONS"]
    service = {
        "host": connection.settings_dict["HOST"],
        "port": connection.settings_dict["PORT"],
        "dbname": connection.settings_dict["NAME"],
        "user": connection.settings_dict["USER"],
        **{name: str(value) for name, value in options.items() if isinstance(value, str)},
        "application_name": "strake backup",
    }
    path = folder / "service"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text("\n".join(["[strake]", *(f"{name}={value}" for name, value in service.items() if value), ""]))
    environment = {name: value for name, value in Environment().values.items() if name in _PASSED_ON}
    if password := connection.settings_dict["PASSWORD"]:
        environment["PGPASSWORD"] = str(password)
    return {**environment, "PGSERVICEFILE": str(path), "PGSERVICE": "strake"}
