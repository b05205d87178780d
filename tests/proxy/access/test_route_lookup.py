"""The one read per request uses unique indexes on both databases, however many tokens there are."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings

from accounts import tokens
from accounts.models import User
from credentials.models import Endpoint
from proxy.access.route import Route
from proxy.access.sqlite_lookup import SQLiteLookup
from tests.support import factories

# Enough rows for a planner to prefer an index, and one endpoint with very many tokens, so that a scan of an endpoint's
# tokens would be slow. With one owner of all endpoints, PostgreSQL may read users in their order up to that one.
FILL = """
from django.conf import settings
from django.utils import timezone
from accounts.models import User
from credentials.models import BearerToken, Credential, DerivedToken, Endpoint, SealedKey
owners = User.objects.bulk_create(User(email=f"{n}@example.org") for n in range(2000))
endpoints = [Endpoint(owner=owner, label="x", provider="custom") for owner in owners]
Endpoint.objects.bulk_create(endpoints)
credentials = [
    Credential(endpoint=one, destination_url="https://api.example.com", header_name="A", header_template="{{secret}}",
               sealed_at=timezone.now())
    for one in endpoints
]
Credential.objects.bulk_create(credentials)
SealedKey.objects.bulk_create([
    SealedKey(credential=one, format=1, master_key_id="k", wrapped_dek=b"1", wrapped_dek_iv=b"1" * 12, ciphertext=b"1",
              iv=b"1" * 12)
    for one in credentials
])
DerivedToken.objects.bulk_create(DerivedToken(credential=one) for one in credentials)
of = lambda n: endpoints[n % 2000 if n < 4000 else 0]
BearerToken.objects.bulk_create(
    [BearerToken(endpoint=of(n), label="x", digest=n.to_bytes(32), preview="x") for n in range(14000)], batch_size=2000
)
from proxy.access import route, route_versions
print(endpoints[0].subdomain)
is_sqlite = settings.DATABASES["default"]["ENGINE"].endswith("sqlite3")
print(route.statement("?") if is_sqlite else route_versions.statement())
"""
UNIQUE = {"credentials_endpoint_unique_subdomain", "credentials_bearertoken_unique_digest"}


def fill(environment: dict[str, str]) -> tuple[str, str]:
    """Fill a migrated database. Returns the subdomain of the endpoint with many tokens, and the statement."""
    output = subprocess.run(
        [sys.executable, "-c", f"import django; django.setup()\n{FILL}"],
        env={**os.environ, **environment},
        cwd=settings.ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    ).stdout
    subdomain, sql = output.strip().split("\n", 1)
    return subdomain, sql


def test_sqlite_uses_the_unique_indexes(migrated_home: Path) -> None:
    subdomain, sql = fill({"STRAKE_HOME": str(migrated_home)})
    database = migrated_home / "data/strake.sqlite3"
    with closing(sqlite3.connect(database)) as reader:
        reader.execute("ANALYZE")
        plan = reader.execute(f"EXPLAIN QUERY PLAN {sql}", (bytes(32), subdomain)).fetchall()
    steps = [step[3] for step in plan]
    assert len(steps) == 7  # with the token's parent
    assert all(step.startswith("SEARCH") for step in steps), steps
    # SQLite names its automatic indexes by number. The plan has the searched columns in brackets.
    assert any("(subdomain=?)" in step for step in steps)
    assert any("(digest=?)" in step for step in steps)


@pytest.mark.postgres
@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
def test_postgresql_uses_the_unique_indexes(plans: str, migrated_home: Path, migrated_url: str) -> None:
    """After some executions, PostgreSQL plans a prepared statement without its parameters."""
    subdomain, sql = fill({"STRAKE_HOME": str(migrated_home), "DATABASE_URL": migrated_url})
    digests = ",".join(n.to_bytes(32).hex() for n in (0, 2000, 13_000))
    with psycopg.connect(migrated_url, autocommit=True) as reader:
        reader.execute("ANALYZE")
        reader.execute(f"SET plan_cache_mode = {plans}")
        reader.execute(f"PREPARE look_up (text, text, text) AS {sql}")
        # EXECUTE takes literals, so the driver has no parameters to bind.
        explained = reader.execute(
            f"EXPLAIN (FORMAT JSON, ANALYZE) EXECUTE look_up ('{subdomain},{subdomain},{subdomain}', '{digests}', ',,')"
        ).fetchone()
    assert explained is not None
    nodes = list(walk(explained[0][0]["Plan"]))
    assert {node.get("Index Name") for node in nodes} >= UNIQUE
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"]
    # Below the list of routes, a node looks for one of them at a time.
    assert max(node["Actual Rows"] for node in nodes if node["Node Type"] == "Index Scan") <= 1
    assert nodes[0]["Actual Rows"] == 3


@pytest.mark.postgres
def test_postgresql_plans_the_statement_once(migrated_home: Path, migrated_url: str) -> None:
    subdomain, sql = fill({"STRAKE_HOME": str(migrated_home), "DATABASE_URL": migrated_url})
    with psycopg.connect(migrated_url, autocommit=True) as reader:
        reader.execute(f"PREPARE look_up (text, text, text) AS {sql}")
        for _ in range(10):
            reader.execute(f"EXECUTE look_up ('{subdomain}', '{bytes(32).hex()}', '')")
        plans = reader.execute("SELECT generic_plans FROM pg_prepared_statements WHERE name = 'look_up'").fetchone()
    assert plans == (5,)  # it compares costs after five executions


def walk(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in walk(child))]


# --- Results -------------------------------------------------------------------------------------------------------


def test_row_holds_what_a_request_needs(transactional_db: None) -> None:
    alice = User.objects.create(email="alice@example.org")
    made = factories.make_endpoint(owner=alice, requests_per_minute=7, allowed_paths=["GET /v1/**"])
    other = factories.make_endpoint(owner=alice)
    Endpoint.objects.filter(pk=made.endpoint.pk).update(max_streams=3)

    async def find() -> list[Route | None]:
        reader = SQLiteLookup()
        digests = [tokens.digest(made.plaintext), tokens.digest(other.plaintext), bytes(32)]
        found = [await reader.find(made.endpoint.subdomain, digest) for digest in digests]
        found.append(await reader.find("abcdefghijkl", digests[0]))
        await reader.close()
        return found

    own, others, unknown, nowhere = asyncio.run(find())
    assert own is not None
    assert (own.endpoint_id, own.owner_id, own.token_id) == (made.endpoint.pk, alice.pk, made.token.pk)
    assert (own.requests_per_minute, own.networks) == (7, ())
    assert own.paths is not None
    assert own.max_streams == 3
    assert (own.sealed, own.binding) == (made.credential.sealed(), made.credential.binding())
    # A token of another endpoint.
    assert others is not None
    assert others.token_id is None
    assert unknown is not None
    assert unknown.token_id is None
    assert nowhere is None


def test_endpoint_without_a_sealed_key_has_no_record(transactional_db: None) -> None:
    made = factories.make_endpoint(owner=User.objects.create(email="alice@example.org"))
    made.credential.sealed_key.delete()

    async def find() -> Route | None:
        reader = SQLiteLookup()
        found = await reader.find(made.endpoint.subdomain, tokens.digest(made.plaintext))
        await reader.close()
        return found

    route = asyncio.run(find())
    assert route is not None
    assert (route.token_id, route.sealed) == (made.token.pk, None)


def test_sqlite_connection_is_read_only(transactional_db: None) -> None:
    reader = SQLiteLookup()
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._open().execute("DELETE FROM credentials_bearertoken")
    asyncio.run(reader.close())


def test_look_up_connects_at_the_start(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full disk, a new connection could not create SQLite's shared memory. One that exists goes on."""
    made = factories.make_endpoint(owner=User.objects.create(email="alice@example.org"))

    async def find() -> Route | None:
        reader = SQLiteLookup()
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", fail_as_on_a_full_disk)
            found = await reader.find(made.endpoint.subdomain, tokens.digest(made.plaintext))
        await reader.close()
        return found

    assert asyncio.run(find()) is not None


def fail_as_on_a_full_disk(*_: object, **__: object) -> None:
    raise sqlite3.OperationalError("unable to open database file")
