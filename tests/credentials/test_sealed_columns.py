"""The pages and the API write sealed keys without reading them, so that their database role need not be able to."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from psycopg import errors, sql
from pytest_django import Settings

from accounts.models import User
from credentials.models import Credential, Endpoint, SealedKey
from tests.support import factories, journey
from tests.support.postgres import PASSWORD, SUPERUSER, Cluster
from tests.support.running import Strake
from tests.support.upstream import Upstream, fixed

READABLE = {"credential_id", "master_key_id"}
SECRET = {field.column for field in SealedKey._meta.concrete_fields} - READABLE


def columns_read(statement: str) -> set[str]:
    """The columns of a sealed key that a statement reads, or returns from what it writes."""
    kind = statement.split()[0]
    if kind == "INSERT":
        statement = statement.partition(" RETURNING ")[2]
    elif kind in {"UPDATE", "DELETE"}:
        statement = statement.partition(" WHERE ")[2]
    return set(re.findall(r'"(\w+)"', statement)) & (SECRET | READABLE)


@pytest.fixture
def destination(upstream: Upstream, settings: Settings) -> str:
    upstream.default = fixed(200, body=b"{}")
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"127.0.0.1:{upstream.port}"]
    return upstream.url


def test_pages_read_no_sealed_column(db: None, destination: str) -> None:
    with CaptureQueriesContext(connection) as captured:
        steps = list(journey.walk(destination))
    assert [step for step in steps if step[1] >= 400] == []
    touching = [query["sql"] for query in captured if "credentials_sealedkey" in query["sql"]]
    assert {statement.split()[0] for statement in touching} == {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert {statement for statement in touching if columns_read(statement) & SECRET} == set()


def test_check_would_find_a_sealed_column(alice: User) -> None:
    factories.make_endpoint(owner=alice)
    with CaptureQueriesContext(connection) as captured:
        SealedKey.objects.whole().get()
        Credential.objects.select_related("sealed_key").get()
        SealedKey.objects.filter(iv=b"").update(format=1)
        SealedKey.objects.filter(ciphertext=b"").delete()
    assert len([query for query in captured if columns_read(query["sql"]) & SECRET]) == 4
    assert columns_read('INSERT INTO "credentials_sealedkey" ("iv") VALUES (1) RETURNING "iv"') == {"iv"}
    assert columns_read('INSERT INTO "credentials_sealedkey" ("iv") VALUES (1)') == set()


@pytest.mark.parametrize("count", [1, 20])
def test_query_count_of_a_list_does_not_grow(alice: User, count: int) -> None:
    for _ in range(count):
        factories.make_endpoint(owner=alice)
    with CaptureQueriesContext(connection) as captured:
        assert not any(endpoint.credential.needs_key_again for endpoint in Endpoint.objects.with_credential())
    assert len(captured) == 2


# --- A role that has only these privileges --------------------------------------------------------------------------

GRANTS = """
GRANT USAGE ON SCHEMA public TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role};
REVOKE ALL ON credentials_sealedkey FROM {role};
GRANT INSERT, UPDATE, DELETE, SELECT (credential_id, master_key_id) ON credentials_sealedkey TO {role};
"""
REVOKES = """
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role};
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {role};
REVOKE ALL ON SCHEMA public FROM {role};
"""


@pytest.fixture
def web_url(migrated_url: str, postgres_cluster: Cluster) -> Iterator[str]:
    """The URL of a migrated database, for a role that may read only two columns of the sealed keys."""
    name = f"web_{secrets.token_hex(4)}"
    role = sql.Identifier(name)
    database = migrated_url.rpartition("/")[2]
    with psycopg.connect(postgres_cluster.url_of("postgres", SUPERUSER), autocommit=True) as superuser:
        superuser.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(PASSWORD)))
        with psycopg.connect(migrated_url) as owner:
            owner.execute(sql.SQL(GRANTS).format(role=role))
        yield f"postgres://{name}:{quote(PASSWORD, safe='')}@127.0.0.1:{postgres_cluster.port}/{database}"
        with psycopg.connect(migrated_url) as owner:
            owner.execute(sql.SQL(REVOKES).format(role=role))
        superuser.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.mark.postgres
def test_pages_work_for_a_role_that_cannot_read_keys(
    migrated_home: Path, web_url: str, migrated_url: str, upstream: Upstream
) -> None:
    upstream.default = fixed(200, body=b"{}")
    web = Strake(migrated_home, {"DATABASE_URL": web_url})
    walked = json.loads(web._run(["-m", "tests.support.journey", upstream.url], check=True).stdout)
    assert walked["failed"] == []
    assert walked["steps"] > 40
    web.connect(upstream.url)
    web.hang_up()
    owner = Strake(migrated_home, {"DATABASE_URL": migrated_url})
    assert owner.manage("verify_vault", check=True).stdout == "1 sealed key: all open.\n"
    with psycopg.connect(web_url, autocommit=True) as role:
        assert role.execute("SELECT credential_id, master_key_id FROM credentials_sealedkey").fetchall()
        for forbidden in (
            "SELECT * FROM credentials_sealedkey",
            *(f"SELECT {column} FROM credentials_sealedkey" for column in sorted(SECRET)),
            *(f"SELECT 1 FROM credentials_sealedkey WHERE {column} IS NOT NULL" for column in sorted(SECRET)),
            "UPDATE credentials_sealedkey SET format = 1 RETURNING ciphertext",
            "UPDATE credentials_sealedkey SET iv = ciphertext",
            "DELETE FROM credentials_sealedkey WHERE iv = ''",
            "DELETE FROM credentials_sealedkey RETURNING wrapped_dek",
            "COPY credentials_sealedkey TO STDOUT",
            "TABLE credentials_sealedkey",
            "CREATE TRIGGER t BEFORE UPDATE ON credentials_sealedkey EXECUTE FUNCTION unknown()",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                role.execute(forbidden.encode())
