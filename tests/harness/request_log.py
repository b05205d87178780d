"""Measure how fast several processes write the request log to PostgreSQL, and what it costs to drop a day of it.

    python -m tests.harness.request_log [--server postgres://postgres@127.0.0.1:5432/postgres]

Each writer calls `write` as fast as it can, with batches of the size that the log has under load. Then a day of
records is dropped while a writer goes on. Without `--server`, the cluster is one that does not wait for the disk. With
it, a new database there is used and dropped. Exits with 1 if a figure of docs/testing.md is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import psycopg
from psycopg import sql

from credentials.vault.keyring import new_document
from tests.harness import database
from tests.support.running import ROOT, Strake

WRITERS = 4
BATCH = 5_000
MIN_PER_SECOND = {10: 60_000, 1_000: 9_000}
MAX_DROP_SECONDS = 1.0
NAME = f"strake_request_log_{os.getpid()}"

ENDPOINTS = """
import json
from accounts.models import User
from tests.support.populate import populate
owner, _ = User.objects.get_or_create(email="owner@example.org")
made = populate(owner, endpoints={count}, tokens_first=1, records=0)
print(json.dumps([[str(endpoint.pk), endpoint.tokens.get().pk] for endpoint in made]))
"""
# In batches of 50 records for each of 100 endpoints, as a busy log writes them.
FILL = """
    INSERT INTO proxy_requestrecord (endpoint_id, token_id, status, latency_ms, first_byte_ms, at)
    SELECT (%(ids)s::uuid[])[1 + number %% 5000 / 50], (%(tokens)s::text[])[1 + number %% 5000 / 50], 200,
        500, 200, %(day)s + number * interval '1 day' / %(count)s
    FROM generate_series(0, %(count)s - 1) AS number
"""


# --- A writer ------------------------------------------------------------------------------------------------------


def run_writer(number: int, endpoints: list[tuple[str, str]], seconds: float) -> None:
    """Write for some seconds. Prints how many records that were, the processor time, and the slowest write."""
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "strake.settings"
    django.setup()
    from proxy.request_log.writer import Entry, write

    rng = Random(number)
    now = time.time()
    known = [(UUID(endpoint_id), token_id) for endpoint_id, token_id in endpoints]
    batches = [
        [
            Entry(*rng.choice(known), 200, int(rng.lognormvariate(6.5, 0.9)), rng.randrange(200), now + index / BATCH)
            for index in range(BATCH)
        ]
        for _ in range(5)
    ]
    write(batches[0])
    print("ready", flush=True)
    sys.stdin.readline()
    written, slowest = 0, 0.0
    began, processor = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        started = time.monotonic()
        write(batches[written // BATCH % len(batches)])
        slowest = max(slowest, time.monotonic() - started)
        written += BATCH
    took = time.monotonic() - began
    print(json.dumps({"rate": written / took, "cpu": time.process_time() - processor, "slowest": slowest}))


@contextmanager
def writers(strake: Strake, count: int, endpoints: list[tuple[str, str]], seconds: float) -> Iterator[list[Any]]:
    """Writers that begin together. The list has their figures after the block."""
    command = [sys.executable, "-m", "tests.harness.request_log", "--writer"]
    figures: list[Any] = []
    processes = []
    for number in range(count):
        process = subprocess.Popen(
            [*command, str(number), "--seconds", str(seconds)],
            cwd=ROOT,
            env=strake.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(endpoints) + "\n")
        process.stdin.flush()
        processes.append(process)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    yield figures
    figures += [json.loads(process.communicate(timeout=seconds + 120)[0]) for process in processes]


# --- The measurements ----------------------------------------------------------------------------------------------


def measure_rate(strake: Strake, count: int, seconds: float) -> bool:
    endpoints = json.loads(strake.python(ENDPOINTS.format(count=count)))
    with writers(strake, WRITERS, endpoints, seconds) as figures:
        pass
    rate: float = sum(figure["rate"] for figure in figures)
    cpu = sum(figure["cpu"] for figure in figures) / (rate * seconds) * 1e6
    slowest = max(figure["slowest"] for figure in figures)
    print(f"{count:>6} endpoints: {rate:>9,.0f} records/s, {cpu:.1f} µs of Python each, slowest batch {slowest:.2f} s")
    return rate >= MIN_PER_SECOND[count]


def measure_drop(strake: Strake, url: str, records: int) -> bool:
    endpoints = json.loads(strake.python(ENDPOINTS.format(count=100)))
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=2)
    part = f"proxy_requestrecord_{day:%Y%m%d}"
    ids, tokens = zip(*endpoints, strict=True)
    values = {"ids": list(ids), "tokens": list(tokens), "count": records, "day": day}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(FILL, values)
        sizes = connection.execute(
            "SELECT pg_table_size(%(part)s), pg_indexes_size(%(part)s)", {"part": part}
        ).fetchone()
        heap, index = (size / records for size in sizes or (0, 0))
        print(f"{records:,} records of one day: {heap:.0f} bytes each, and {index:.0f} in the index")
        with writers(strake, 1, endpoints, 5.0) as figures:
            time.sleep(2)
            started = time.monotonic()
            # The clock of this machine is right, so the day is dropped as `maintain` would drop it.
            connection.execute(f"DROP TABLE {part}")
            took = time.monotonic() - started
    print(f"dropped in {took * 1000:.0f} ms; the slowest batch meanwhile took {figures[0]['slowest'] * 1000:.0f} ms")
    return took < MAX_DROP_SECONDS


@contextmanager
def new_database(server: str) -> Iterator[str]:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(NAME)))
        try:
            yield urlunsplit(urlsplit(server)._replace(path=f"/{NAME}"))
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(NAME)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="", help="the URL of a PostgreSQL server, for a superuser")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--records", type=int, default=10_000_000, help="in the day that is dropped")
    parser.add_argument("--writer", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.writer is not None:
        run_writer(given.writer, json.loads(sys.stdin.readline()), given.seconds)
        return
    with ExitStack() as stack:
        if given.server:
            url = stack.enter_context(new_database(given.server))
        else:
            url = stack.enter_context(database("postgresql"))["DATABASE_URL"]
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        strake = Strake(home / "strake", {"DATABASE_URL": url, "STRAKE_MASTER_KEYS": new_document()})
        strake.manage("migrate", "--verbosity=0", check=True)
        stack.callback(strake.hang_up)
        good = [measure_rate(strake, count, given.seconds) for count in MIN_PER_SECOND]
        if given.records:
            good.append(measure_drop(strake, url, given.records))
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
