"""What does PostgreSQL need for many endpoints? `python -m tests.harness.scaling` copies one to 100 and 10,000 rows.

Prints the bytes of each table with its indexes, and what the look-up of a route reads: buffers of 8 kB, all of them in
memory, and the time of its plan and its execution in the server. Bytes and buffers do not depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from tests.support import postgres
from tests.support.running import Strake

TABLES = {
    "credentials_endpoint": {"id": "{uuid}", "subdomain": "{subdomain}"},
    "credentials_credential": {"id": "{uuid}", "endpoint_id": "{uuid}"},
    "credentials_sealedkey": {"credential_id": "{uuid}"},
    "credentials_bearertoken": {"id": "{token}", "endpoint_id": "{uuid}", "digest": "sha256(n::text::bytea)"},
}
VALUES = {
    "uuid": "md5(n::text)::uuid",
    "subdomain": "'e' || lpad(n::text, 11, '0')",
    "token": "'ctok_' || lpad(n::text, 17, '0')",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="100,10000")
    counts = [int(count) for count in parser.parse_args().counts.split(",")]
    with tempfile.TemporaryDirectory() as folder, postgres.cluster() as cluster:
        strake = Strake(Path(folder) / "home", {"DATABASE_URL": cluster.url})
        strake.manage("migrate", "-v0", check=True)
        strake.connect("http://127.0.0.1:9")
        strake.hang_up()
        lookup = strake.python("from proxy.access import route_versions; print(route_versions.statement())")
        print(f"| endpoints | {' | '.join(TABLES)} | look-up: buffers | plan, ms | execution, ms |")
        print(f"|{' --- |' * (len(TABLES) + 4)}")
        done = 1
        with psycopg.connect(cluster.url, autocommit=True) as connection:
            for count in counts:
                for table, values in TABLES.items():
                    _copy(connection, table, values, done, count)
                connection.execute("VACUUM ANALYZE")
                done = count
                cells = (f"{count:,}", _sizes(connection, count), _look_up(connection, lookup, count))
                print(f"| {' | '.join(cells)} |", flush=True)
    return 0


def _copy(connection: psycopg.Connection, table: str, values: dict[str, str], done: int, count: int) -> None:
    """Copy the oldest row of a table, until it has `count`."""
    rows = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND is_generated = 'NEVER'", [table]
    ).fetchall()
    columns = [name for (name,) in rows]
    selected = [values[name].format(**VALUES) if name in values else f'"{name}"' for name in columns]
    names = ", ".join(f'"{name}"' for name in columns)
    statement = (
        f"INSERT INTO {table} ({names}) SELECT {', '.join(selected)} "
        f"FROM (SELECT * FROM {table} ORDER BY ctid LIMIT 1) AS one, generate_series({done}, {count - 1}) AS n"
    )
    connection.execute(statement.encode())


def _sizes(connection: psycopg.Connection, count: int) -> str:
    """Bytes of each table for one endpoint."""
    sizes = [connection.execute("SELECT pg_total_relation_size(%s::regclass)", [table]).fetchone() for table in TABLES]
    return " | ".join(f"{size[0] / count:.0f}" for size in sizes if size)


def _look_up(connection: psycopg.Connection, statement: str, count: int) -> str:
    """Look one route up a few times, as a prepared statement, and describe the last time."""
    connection.execute(f"PREPARE route AS {statement}".encode())
    row = connection.execute(
        "SELECT subdomain, encode(digest, 'hex') FROM credentials_endpoint JOIN credentials_bearertoken "
        "ON endpoint_id = credentials_endpoint.id ORDER BY subdomain OFFSET %s LIMIT 1",
        [count // 2],
    ).fetchone()
    assert row is not None
    explained: Any = None
    for _ in range(10):
        explained = connection.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE route('{row[0]}', '{row[1]}', '')".encode()
        ).fetchone()
    connection.execute("DEALLOCATE route")
    (plan,) = explained[0] if not isinstance(explained[0], str) else json.loads(explained[0])
    buffers = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    return f"{buffers} | {plan['Planning Time']:.2f} | {plan['Execution Time']:.2f}"


if __name__ == "__main__":
    sys.exit(main())
