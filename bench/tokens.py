"""Does a request cost more with more tokens in the database?"""

from __future__ import annotations

from bench.closed_loop import load
from bench.gateways import Gateway, metered
from bench.tables import Results, shown, table

COUNTS = (100, 10_000, 1_000_000)


def fill(count: int) -> None:
    """Copy the tokens of an SQLite database until there are `count` more, each with another id and digest."""
    from django.db import connection  # after Django's set-up

    from credentials.models import BearerToken

    model = BearerToken._meta
    copied = {field.column: field.column for field in model.concrete_fields}
    copied |= {"id": "'ctok_' || lower(hex(randomblob(8)))", "digest": "randomblob(32)"}
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH RECURSIVE times(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM times WHERE n < {count}) "
            f"INSERT INTO {model.db_table} ({', '.join(copied)}) "
            f"SELECT {', '.join(copied.values())} FROM times, {model.db_table} LIMIT {count}"
        )


def measure(gateway: Gateway, results: Results, count: int, seconds: int) -> None:
    target = gateway.targets[0]
    load(target, 32, 1)
    with metered(gateway) as spent:
        run = load(target, 32, seconds)
    for figure, value in {"rps": run.rps, "p50": run.p50, "cpu": spent.gateway / run.requests * 1e6}.items():
        results.add(f"{count:,}", f"tokens {figure}", value)


def tables(results: Results) -> list[str]:
    figures = [("tokens rps", 0), ("tokens p50", 2), ("tokens cpu", 0)]
    rows = [
        [name, *(shown(results.median(name, figure), digits) for figure, digits in figures)]
        for name in results.gateways("tokens rps")
    ]
    head = ["tokens in the database (SQLite)", "requests/s, 32 connections", "p50, ms", "CPU, µs"]
    return ["## Many tokens", "", *table(head, rows), ""]
