"""Routes that are kept on PostgreSQL: the next look-up sees every change that another connection committed."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from django.conf import settings
from psycopg import sql

from proxy.access import postgresql_lookup, route_versions
from proxy.access.postgresql_lookup import PostgreSQLLookup
from proxy.access.route import Route
from proxy.errors import StoreUnavailable
from strake.database_url import database_config
from tests.support.postgres import Cluster
from tests.support.running import prepare_home
from tests.support.upstream import eventually, until

pytestmark = pytest.mark.postgres

NAME = "look-up-that-keeps"
FILL = """
import django
django.setup()
import json
from django.utils import timezone
from accounts.models import User
from credentials.models import BearerToken, Credential, DerivedToken, Endpoint, SealedKey
from tests.support.running import prepare_home
made = []
for n in range(60):
    owner = User.objects.create(email=f"{n}@example.org")
    endpoint = Endpoint.objects.create(owner=owner, label="x", provider="custom")
    credential = Credential(endpoint=endpoint, destination_url="https://api.example.com", header_name="A",
                            header_template="{{secret}}", sealed_at=timezone.now())
    credential.save()
    SealedKey.objects.create(credential=credential, format=1, master_key_id="k", wrapped_dek=b"1",
                             wrapped_dek_iv=b"1" * 12, ciphertext=b"1", iv=b"1" * 12)
    DerivedToken.objects.create(credential=credential)
    token = BearerToken.objects.create(endpoint=endpoint, label="x", digest=n.to_bytes(32), preview="x")
    made.append([endpoint.subdomain, token.digest.hex(), str(endpoint.pk), str(owner.pk), str(credential.pk), token.pk])
print(json.dumps(made))
"""


class Made(NamedTuple):
    subdomain: str
    digest: bytes
    endpoint: str
    owner: str
    credential: str
    token: str


@pytest.fixture(scope="module")
def database(postgres_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[Made]]]:
    """The URL of a database, and endpoints in it of which each test takes its own."""
    name = f"strake_test_{secrets.token_hex(6)}"
    url = postgres_cluster.url_of(name)
    environment = {"STRAKE_HOME": str(prepare_home(tmp_path_factory.mktemp("kept") / "home")), "DATABASE_URL": url}
    postgres_cluster.create_migrated(name)
    output = subprocess.run(
        [sys.executable, "-c", FILL],
        env={**os.environ, **environment},
        cwd=settings.ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    ).stdout
    yield url, [Made(subdomain, bytes.fromhex(digest), *ids) for subdomain, digest, *ids in json.loads(output)]
    with psycopg.connect(postgres_cluster.url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def url(database: tuple[str, list[Made]]) -> str:
    return database[0]


@pytest.fixture
def made(database: tuple[str, list[Made]]) -> Made:
    return database[1].pop()


@pytest.fixture
def other(database: tuple[str, list[Made]]) -> Made:
    return database[1].pop()


@pytest.fixture
async def lookup(url: str) -> AsyncIterator[PostgreSQLLookup]:
    created = PostgreSQLLookup(config_of(url))
    yield created
    await created.close()


@pytest.fixture
def sent(lookup: PostgreSQLLookup, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The subdomains that each statement asked for, and the number of rows that came back."""
    statements: list[list[str]] = []
    ask = lookup._pool.ask

    async def spy(arguments: Callable[[], tuple[object, ...]]) -> list[Any]:
        def listed() -> tuple[object, ...]:
            values = arguments()
            statements.append(str(values[0]).split(","))
            return values

        return await ask(listed)

    monkeypatch.setattr(lookup._pool, "ask", spy)
    return statements


def config_of(url: str) -> dict[str, Any]:
    config = database_config(url)
    config["OPTIONS"] |= {"application_name": NAME}
    return config


def execute(url: str, statement: str, **values: object) -> None:
    """Run SQL in one transaction of another connection."""
    with psycopg.connect(url) as connection:
        for one in statement.split(";"):
            connection.execute(one.encode(), values)


TOKEN = "UPDATE credentials_bearertoken SET {} WHERE id = %(token)s"
ENDPOINT = "UPDATE credentials_endpoint SET {} WHERE id = %(endpoint)s"
OWNER = "UPDATE accounts_user SET {} WHERE id = %(owner)s"
CREDENTIAL = "UPDATE credentials_credential SET {} WHERE id = %(credential)s"
KEY = "UPDATE credentials_sealedkey SET {} WHERE credential_id = %(credential)s"
DERIVED = "UPDATE credentials_derivedtoken SET {} WHERE credential_id = %(credential)s"
DELETE_ENDPOINT = (
    "DELETE FROM credentials_bearertoken WHERE endpoint_id = %(endpoint)s;"
    "DELETE FROM credentials_derivedtoken WHERE credential_id = %(credential)s;"
    "DELETE FROM credentials_sealedkey WHERE credential_id = %(credential)s;"
    "DELETE FROM credentials_credential WHERE id = %(credential)s;"
    "DELETE FROM credentials_endpoint WHERE id = %(endpoint)s"
)
CHANGES: dict[str, tuple[str, Callable[[Route], object]]] = {
    "token revoked": (TOKEN.format("revoked_at = now()"), lambda route: route.is_ended),
    "token rotated": (TOKEN.format("digest = sha256(digest)"), lambda route: route.token_id is None),
    "token expired": (TOKEN.format("expires_at = now() + interval '1 s'"), lambda route: route.expires_at),
    "rate limited": (TOKEN.format("requests_per_minute = 7"), lambda route: route.requests_per_minute == 7),
    "networks limited": (TOKEN.format("""allowed_networks = '["10.0.0.0/8"]'"""), lambda route: route.networks),
    "paths limited": (TOKEN.format("""allowed_paths = '["GET /v1/**"]'"""), lambda route: route.paths),
    "origins allowed": (TOKEN.format("""allowed_origins = '["https://a.example"]'"""), lambda route: route.origins),
    "token deleted": ("DELETE FROM credentials_bearertoken WHERE id = %(token)s", lambda route: route.token_id is None),
    "endpoint paused": (ENDPOINT.format("paused_at = now()"), lambda route: route.is_paused),
    "streams limited": (ENDPOINT.format("max_streams = 3"), lambda route: route.max_streams == 3),
    "owner suspended": (OWNER.format("suspended_at = now()"), lambda route: route.is_ended),
    "email changed": (OWNER.format("email = 'new-' || email"), lambda route: route.owner_email.startswith("new-")),
    "destination changed": (
        CREDENTIAL.format("destination_url = 'https://b.example'"),
        lambda route: route.destination_url == "https://b.example",
    ),
    "key replaced": (KEY.format("iv = '222222222222'"), lambda route: route.iv == b"2" * 12),
    "key rewrapped": (KEY.format("master_key_id = 'new'"), lambda route: route.master_key_id == "new"),
    "key deleted": (
        "DELETE FROM credentials_sealedkey WHERE credential_id = %(credential)s",
        lambda route: route.sealed is None,
    ),
    "derived token renewed": (
        DERIVED.format("ciphertext = 'new'"),
        lambda route: route.derived is not None and route.derived.ciphertext == b"new",
    ),
    "derived token deleted": (
        "DELETE FROM credentials_derivedtoken WHERE credential_id = %(credential)s",
        lambda route: route.derived is None,
    ),
}


PARENT = "UPDATE credentials_bearertoken SET {} WHERE id = %(parent)s"
CHANGES_OF_PARENT: dict[str, tuple[str, Callable[[Route], object]]] = {
    "revoked": (PARENT.format("revoked_at = now()"), lambda route: route.is_ended),
    "expiry": (PARENT.format("expires_at = '2100-01-01'"), lambda route: route.expires_at),
    "paths": (
        PARENT.format("""allowed_paths = '["GET /v1/**"]'"""),
        lambda route: route.parent is not None and route.parent.paths,
    ),
    "budget": (PARENT.format("requests_per_day = 7"), lambda route: [one.per_day for one in route.budgets] == [7]),
}


async def find(lookup: PostgreSQLLookup, made: Made) -> Route:
    route = await lookup.find(made.subdomain, made.digest)
    assert route is not None
    return route


# --- Changes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES_OF_PARENT)
async def test_next_look_up_sees_a_change_of_the_parent(
    change: str, lookup: PostgreSQLLookup, made: Made, url: str
) -> None:
    statement, is_seen = CHANGES_OF_PARENT[change]
    values = {**made._asdict(), "parent": f"ctok_{secrets.token_hex(6)}"}
    execute(
        url,
        "INSERT INTO credentials_bearertoken "
        "(id, endpoint_id, label, digest, preview, allowed_paths, allowed_networks) "
        "VALUES (%(parent)s, %(endpoint)s, 'x', sha256(%(digest)s), 'x', '[]', '[]');"
        "UPDATE credentials_bearertoken SET parent_id = %(parent)s WHERE id = %(token)s",
        **values,
    )
    before = await find(lookup, made)
    assert not is_seen(before)
    assert await find(lookup, made) is before
    execute(url, statement, **values)
    assert is_seen(await find(lookup, made))


@pytest.mark.parametrize("change", CHANGES)
async def test_next_look_up_sees_a_change(change: str, lookup: PostgreSQLLookup, made: Made, url: str) -> None:
    statement, is_seen = CHANGES[change]
    before = await find(lookup, made)
    assert not is_seen(before)
    assert await find(lookup, made) is before
    execute(url, statement, **made._asdict())
    after = await find(lookup, made)
    assert is_seen(after)
    if after.token_id is not None:
        assert await find(lookup, made) is after


@pytest.mark.parametrize(
    ("change", "back"),
    [
        (ENDPOINT.format("paused_at = now()"), ENDPOINT.format("paused_at = NULL")),
        (OWNER.format("suspended_at = now()"), OWNER.format("suspended_at = NULL")),
        (KEY.format("iv = '222222222222'"), KEY.format("iv = '111111111111'")),
    ],
)
async def test_undone_change_is_seen(change: str, back: str, lookup: PostgreSQLLookup, made: Made, url: str) -> None:
    def state(route: Route) -> tuple[object, ...]:
        return route.is_paused, route.is_ended, route.iv

    before = await find(lookup, made)
    execute(url, change, **made._asdict())
    assert state(await find(lookup, made)) != state(before)
    execute(url, back, **made._asdict())
    assert state(await find(lookup, made)) == state(before)


async def test_deleted_endpoint_is_not_found(lookup: PostgreSQLLookup, made: Made, url: str) -> None:
    await find(lookup, made)
    execute(url, DELETE_ENDPOINT, **made._asdict())
    assert await lookup.find(made.subdomain, made.digest) is None


async def test_token_moves_to_another_endpoint(lookup: PostgreSQLLookup, made: Made, other: Made, url: str) -> None:
    """The same digest, deleted and inserted in one transaction."""
    assert (await find(lookup, made)).token_id == made.token
    assert (await find(lookup, other._replace(digest=made.digest))).token_id is None
    execute(
        url,
        "DELETE FROM credentials_bearertoken WHERE id = %(token)s;"
        "UPDATE credentials_bearertoken SET digest = %(digest)s WHERE endpoint_id = %(endpoint)s",
        token=made.token,
        digest=made.digest,
        endpoint=other.endpoint,
    )
    assert (await find(lookup, made)).token_id is None
    assert (await find(lookup, other._replace(digest=made.digest))).token_id == other.token


async def test_token_inserted_anew_is_seen(lookup: PostgreSQLLookup, made: Made, url: str) -> None:
    await find(lookup, made)
    execute(
        url,
        "CREATE TEMPORARY TABLE copied ON COMMIT DROP AS SELECT * FROM credentials_bearertoken WHERE id = %(token)s;"
        "DELETE FROM credentials_bearertoken WHERE id = %(token)s;"
        "UPDATE copied SET revoked_at = now();"
        "INSERT INTO credentials_bearertoken SELECT * FROM copied",
        **made._asdict(),
    )
    assert (await find(lookup, made)).is_ended


@pytest.mark.parametrize("change", [ENDPOINT.format("label = 'new'"), TOKEN.format("last_used_at = now()")])
async def test_route_stays_if_its_values_do(change: str, lookup: PostgreSQLLookup, made: Made, url: str) -> None:
    before = await find(lookup, made)
    execute(url, change, **made._asdict())
    assert await find(lookup, made) is before


async def test_rollback_and_vacuum_change_nothing(lookup: PostgreSQLLookup, made: Made, url: str) -> None:
    before = await find(lookup, made)
    with psycopg.connect(url) as connection:
        connection.execute(TOKEN.format("revoked_at = now()").encode(), made._asdict())
        assert await find(lookup, made) is before  # not committed yet
        connection.rollback()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (FREEZE) credentials_bearertoken")
    assert await find(lookup, made) is before


async def test_two_changes_of_one_transaction_are_seen(lookup: PostgreSQLLookup, made: Made, url: str) -> None:
    await find(lookup, made)
    with psycopg.connect(url) as connection:
        connection.execute(TOKEN.format("requests_per_minute = 1").encode(), made._asdict())
        with connection.transaction():
            connection.execute(TOKEN.format("requests_per_minute = 2").encode(), made._asdict())
    assert (await find(lookup, made)).requests_per_minute == 2


async def test_knows_tokens_that_were_found(lookup: PostgreSQLLookup, made: Made, other: Made) -> None:
    assert not lookup.knows(made.digest)
    await find(lookup, made)
    assert lookup.knows(made.digest)
    assert not (await find(lookup, other._replace(digest=b"\xff" * 32))).token_id
    assert not lookup.knows(b"\xff" * 32)


# --- Batches -------------------------------------------------------------------------------------------------------


async def test_one_statement_for_kept_changed_and_unknown(
    lookup: PostgreSQLLookup, made: Made, other: Made, url: str, sent: list[list[str]]
) -> None:
    kept, before = await find(lookup, made), await find(lookup, other)
    execute(url, TOKEN.format("revoked_at = now()"), **other._asdict())
    sent.clear()
    routes = await asyncio.gather(
        lookup.find("abcdefghijkl", made.digest),
        lookup.find(made.subdomain, made.digest),
        lookup.find(made.subdomain, other.digest),
        lookup.find(other.subdomain, other.digest),
        lookup.find(other.subdomain, b"\xff" * 32),
        lookup.find(made.subdomain, made.digest),
    )
    assert len(sent) == 1
    nowhere, again, foreign, changed, unknown, twice = routes
    assert nowhere is None
    assert again is twice is kept
    assert changed is not None
    assert changed is not before
    assert (changed.token_id, changed.is_ended) == (other.token, True)
    assert foreign is not None
    assert (foreign.endpoint_id, foreign.token_id) == (kept.endpoint_id, None)
    assert unknown is not None
    assert (unknown.endpoint_id, unknown.token_id) == (changed.endpoint_id, None)


@pytest.mark.parametrize("subdomain", ["", ",", "a,b", "abcdefghijkl,"])
async def test_no_subdomain_shifts_the_others(subdomain: str, lookup: PostgreSQLLookup, made: Made) -> None:
    nowhere, route = await asyncio.gather(lookup.find(subdomain, b""), lookup.find(made.subdomain, made.digest))
    assert nowhere is None
    assert route is not None
    assert route.token_id == made.token


async def test_invalid_row_fails_its_own_requests(
    lookup: PostgreSQLLookup, made: Made, other: Made, url: str, sent: list[list[str]]
) -> None:
    execute(url, TOKEN.format("""allowed_networks = '["none"]'"""), **made._asdict())
    broken, route = await asyncio.gather(
        lookup.find(made.subdomain, made.digest), lookup.find(other.subdomain, other.digest), return_exceptions=True
    )
    assert len(sent) == 1
    assert isinstance(broken, ValueError)
    assert isinstance(route, Route)


@pytest.fixture
async def held(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[PostgreSQLLookup, Any]]:
    """A look-up whose statements have begun, and wait for a lock until the function is called."""
    slow = "FROM (SELECT pg_advisory_xact_lock_shared(7) OFFSET 0) AS slow CROSS JOIN UNNEST("
    statement = route_versions.statement().replace("FROM UNNEST(", slow)
    monkeypatch.setattr(postgresql_lookup, "statement", lambda: statement)
    created = PostgreSQLLookup(config_of(url))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(7)")
        yield created, lambda: connection.execute("SELECT pg_advisory_unlock(7)")
    await created.close()


def waiting(url: str) -> int:
    """The number of statements that wait for an advisory lock."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


async def test_request_joins_no_statement_that_was_sent(
    held: tuple[PostgreSQLLookup, Any], made: Made, url: str
) -> None:
    lookup, release = held
    early = asyncio.create_task(find(lookup, made))
    await asyncio.to_thread(eventually, lambda: waiting(url) == 1)
    execute(url, TOKEN.format("revoked_at = now()"), **made._asdict())
    late = asyncio.create_task(find(lookup, made))
    await asyncio.to_thread(eventually, lambda: waiting(url) == 2)
    later = asyncio.create_task(find(lookup, made))
    await asyncio.sleep(0)
    release()
    # The first one began before the token was revoked, so either is right. It proves that the statement had begun.
    assert not (await early).is_ended
    assert (await late).is_ended
    assert (await later).is_ended


async def test_cancelled_request_leaves_its_batch(held: tuple[PostgreSQLLookup, Any], made: Made, url: str) -> None:
    lookup, release = held
    tasks = [asyncio.create_task(find(lookup, made)) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.to_thread(eventually, lambda: waiting(url) == 1)
    tasks[1].cancel()
    release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2 + [Route] * 2
    assert lookup._pool._size == 1


# --- Outages -------------------------------------------------------------------------------------------------------


async def test_outage_fails_whoever_waits_at_once(held: tuple[PostgreSQLLookup, Any], made: Made, url: str) -> None:
    lookup, release = held
    sent = [asyncio.create_task(find(lookup, made))]
    await asyncio.to_thread(eventually, lambda: waiting(url) == 1)
    sent.append(asyncio.create_task(find(lookup, made)))
    await asyncio.to_thread(eventually, lambda: waiting(url) == 2)
    unsent = [asyncio.create_task(find(lookup, made)) for _ in range(5)]
    await asyncio.sleep(0)
    end_connections(url, limit=1)
    async with asyncio.timeout(30):
        results = await asyncio.gather(sent[0], *unsent, return_exceptions=True)
    assert {type(result) for result in results} == {StoreUnavailable}
    assert not sent[1].done()
    release()
    assert (await sent[1]).token_id == made.token
    await until(lambda: not lookup._breaker.is_open)
    assert (await find(lookup, made)).token_id == made.token


async def test_new_connection_forgets_every_version(lookup: PostgreSQLLookup, made: Made, url: str) -> None:
    """A server that crashed may have lost transactions, and uses their ids again."""
    before = await find(lookup, made)
    end_connections(url)
    await until(lambda: all(one.connection.is_closed() for one in lookup._pool._idle))
    assert await find(lookup, made) is not before


async def test_versions_are_forgotten_after_an_hour(lookup: PostgreSQLLookup, made: Made) -> None:
    before = await find(lookup, made)
    assert await find(lookup, made) is before
    lookup._forget_at -= postgresql_lookup.KEEP_SECONDS
    assert await find(lookup, made) is not before


async def test_version_names_the_server(lookup: PostgreSQLLookup, made: Made, url: str) -> None:
    await find(lookup, made)
    with psycopg.connect(url) as connection:
        started = connection.execute("SELECT extract(epoch FROM pg_postmaster_start_time())").fetchone()
    kept = lookup._kept.get(made.subdomain, made.digest)
    assert started is not None
    assert kept is not None
    assert kept.version.startswith(f"{started[0]}/")


def end_connections(url: str, limit: int = 100) -> None:
    """End the connections of look-ups, the oldest first."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM"
            " (SELECT pid FROM pg_stat_activity WHERE application_name = %s ORDER BY backend_start LIMIT %s) AS oldest",
            [NAME, limit],
        )
