"""`manage.py grant_roles`, and that Strake works with the rights that it grants."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from credentials.vault.keyring import new_document
from tests.support.database_roles import Database, migrated, proxy_half
from tests.support.postgres import PASSWORD, ROLE, SUPERUSER, Cluster
from tests.support.running import ROOT, Strake
from tests.support.upstream import Upstream, eventually
from tests.test_audit_sweep import CHANGING, api_calls
from tests.test_urls_sweep import ROUTES

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def _database(postgres_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with migrated(postgres_cluster, tmp_path_factory.mktemp("roles") / "home") as shared:
        yield shared


@pytest.fixture
def database(_database: Database) -> Iterator[Database]:
    """A migrated database whose roles have no rights yet."""
    yield _database
    _database.execute(SUPERUSER, "DROP OWNED BY {}, {}", _database.web, _database.proxy)


# --- The command ---------------------------------------------------------------------------------------------------


def run(database: Database, *options: str, web: str = "", proxy: str = "") -> dict[str, str]:
    roles = ("--web", web or database.web, "--proxy", proxy or database.proxy)
    return database.command("grant_roles", *roles, *options)


def rights(database: Database) -> list[dict[str, str]]:
    return [database.granted(role) for role in (database.web, database.proxy)]


def assert_refused(done: dict[str, str], *words: str) -> None:
    """Require that the command failed with one line that has these words."""
    assert len(done["failed"].strip().splitlines()) == 1, done
    for word in words:
        assert word in done["failed"]
    assert PASSWORD not in done["failed"]


def ended(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The same of a process of its own, which must end with 1."""
    assert done.returncode == 1, done.stdout + done.stderr
    return {"output": done.stdout, "failed": done.stderr}


def test_running_it_again_takes_other_rights_away(database: Database) -> None:
    database.grant()
    before = rights(database)
    roles = (database.web, database.proxy)
    for statement in (
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO {}, {}",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {}, {}",
        "GRANT SELECT (ciphertext), INSERT (iv) ON credentials_sealedkey TO {}, {} WITH GRANT OPTION",
        "GRANT ALL ON SCHEMA public TO {}, {}",
        "GRANT ALL ON DATABASE strake TO {}, {}".replace("strake", database.name),
    ):
        database.execute(ROLE, statement, *roles)
    with pytest.raises(AssertionError, match="may pass on"):
        database.granted(database.web)
    database.grant()
    assert rights(database) == before


def test_dry_run_prints_what_would_run(database: Database) -> None:
    printed = run(database, "--dry-run")["output"]
    assert rights(database) == [{}, {}]
    with database.connect(ROLE) as owner:
        owner.execute(printed.encode())
    by_hand = rights(database)
    database.grant()
    assert rights(database) == by_hand
    assert all(by_hand)


def test_missing_role_is_refused(database: Database) -> None:
    assert_refused(run(database, proxy='no"body'), 'There is no role "no""body"', 'CREATE ROLE "no""body" LOGIN')
    assert rights(database) == [{}, {}]


def test_one_role_for_both_is_refused(database: Database) -> None:
    assert_refused(run(database, proxy=database.web), "needs its own role")


def test_owner_is_refused(database: Database) -> None:
    assert_refused(run(database, web=ROLE), '"strake" owns tables')


@pytest.mark.parametrize("attribute", ["SUPERUSER", "CREATEROLE", "REPLICATION", "BYPASSRLS"])
def test_powerful_role_is_refused(database: Database, attribute: str) -> None:
    database.execute(SUPERUSER, f"ALTER ROLE {{}} {attribute}", database.web)
    try:
        assert_refused(run(database), attribute, f"NO{attribute}")
    finally:
        database.execute(SUPERUSER, f"ALTER ROLE {{}} NO{attribute}", database.web)
    assert rights(database) == [{}, {}]


@pytest.mark.parametrize("group", [ROLE, "pg_read_all_data"])
def test_member_of_another_role_is_refused(database: Database, group: str) -> None:
    database.execute(SUPERUSER, "GRANT {} TO {}", group, database.web)
    try:
        assert_refused(run(database), f"member of {group}")
    finally:
        database.execute(SUPERUSER, "REVOKE {} FROM {}", group, database.web)


@pytest.mark.parametrize(
    ("right", "shown"),
    [
        ("SELECT ON credentials_sealedkey", "SELECT on credentials_sealedkey"),
        ("SELECT (iv) ON credentials_sealedkey", "SELECT on credentials_sealedkey (iv)"),
        ("TRIGGER ON accounts_user", "TRIGGER on accounts_user"),
        ("CREATE ON SCHEMA public", "CREATE on the schema"),
    ],
)
def test_right_of_everybody_is_refused(database: Database, right: str, shown: str) -> None:
    database.grant()
    before = rights(database)
    database.execute(ROLE, f"GRANT {right} TO PUBLIC")
    try:
        assert_refused(run(database), "can do more", shown, "PUBLIC")
    finally:
        database.execute(ROLE, f"REVOKE {right} FROM PUBLIC")
    assert rights(database) == before


def test_surplus_of_both_roles_is_said_at_once(database: Database) -> None:
    """One line names it, so that one REVOKE is enough. Functions that run as the owner are closed without asking."""
    database.grant()
    before = rights(database)
    functions = "accounts_auditevent_last(), proxy_requestrecord_maintain(timestamptz)"
    database.execute(ROLE, f"GRANT EXECUTE ON FUNCTION {functions} TO PUBLIC")
    database.execute(ROLE, "GRANT SELECT ON credentials_sealedkey, accounts_accesstoken TO PUBLIC")
    try:
        surplus = f"{database.web} can do more", f"{database.proxy} can do more", "SELECT on accounts_accesstoken"
        assert_refused(run(database), *surplus, "as the owner")
        assert "EXECUTE" not in run(database)["failed"]
    finally:
        database.execute(ROLE, "REVOKE SELECT ON credentials_sealedkey, accounts_accesstoken FROM PUBLIC")
    database.grant()
    assert rights(database) == before
    assert not database.open_functions()


def test_another_role_than_the_owner_cannot_grant(database: Database) -> None:
    web = Strake(database.strake.home, {"DATABASE_URL": database.url(database.web)})
    done = web.manage("grant_roles", "--web", database.web, "--proxy", database.proxy)
    assert_refused(ended(done), "permission denied", "of the owner of the tables")


def test_database_without_tables_is_refused(postgres_url: str, tmp_path: Path) -> None:
    done = Strake(tmp_path / "home", {"DATABASE_URL": postgres_url}).manage("grant_roles", "--web=a", "--proxy=b")
    assert_refused(ended(done), "lacks accounts_accesstoken", "manage.py migrate")


@pytest.mark.django_db
def test_sqlite_is_refused() -> None:
    with pytest.raises(CommandError, match="Only PostgreSQL has roles"):
        call_command("grant_roles", "--web=a", "--proxy=b")


@pytest.mark.parametrize("arguments", [["migrate", "--check"], ["serve", "--only=proxy"]], ids=lambda a: a[0])
def test_role_without_rights_names_the_command(database: Database, tmp_path: Path, arguments: list[str]) -> None:
    """Also after a restore, which leaves the roles without any."""
    done = proxy_half(database, tmp_path, STRAKE_RUNTIME=str(tmp_path / "run")).manage(*arguments)
    assert done.returncode == os.EX_TEMPFAIL, "a service manager tries again, and finds the rights"
    assert "permission denied for table django_migrations" in done.stderr
    assert done.stderr.endswith("as the owner of the tables: manage.py grant_roles --web ROLE --proxy ROLE\n")


# --- Strake with these roles ---------------------------------------------------------------------------------------

# The test of a connection asks the proxy half.
NOT_CALLED = re.compile(r"api:.*|connection_test")


@pytest.fixture
def new_database(postgres_cluster: Cluster, tmp_path: Path) -> Iterator[Database]:
    """A database without data. The first key that is sealed in it registers its master key."""
    with migrated(postgres_cluster, tmp_path / "home") as made:
        yield made


def test_every_page_works_as_the_web_role(new_database: Database) -> None:
    database = new_database
    link = database.strake.call("signin_link", email="operator@example.org", staff=True)["link"]
    database.grant()
    journey = subprocess.run(
        [sys.executable, "-m", "tests.support.web_journey", link],
        cwd=ROOT,
        env=database.strake.environment | {"DATABASE_URL": database.url(database.web)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert journey.returncode == 0, journey.stderr
    assert "Error" not in journey.stderr, "a thread failed"
    called = set(json.loads(journey.stdout))
    names = {call.partition(" ")[2] for call in called}
    assert {name for name in ROUTES if not NOT_CALLED.fullmatch(name)} <= names
    assert {f"POST {name}" for name in CHANGING} <= called
    assert {f"{method} {re.sub(r'{.+?}', 'ID', path)}" for method, path, _ in api_calls()} <= called


def is_recorded(database: Database, requests: int) -> bool:
    return database.execute(ROLE, "SELECT sum(count) FROM proxy_rollup") == [(requests,)]


@pytest.mark.redis
def test_proxy_works_as_the_proxy_role(
    new_database: Database, redis_url: str, upstream: Upstream, tmp_path: Path
) -> None:
    database = new_database
    database.grant()
    endpoint = database.strake.connect(upstream.url)
    with proxy_half(database, tmp_path, redis_url) as proxy:
        assert database.execute(ROLE, "SELECT count(*) FROM credentials_serverprocess") == [(1,)]
        for number in (1, 2):  # the second batch updates the totals of the first
            response = httpx.get(f"{proxy.url}{endpoint.path}/v1/models", headers=endpoint.bearer)
            assert response.status_code == 200
            eventually(partial(is_recorded, database, number))
        assert database.execute(ROLE, "SELECT count(last_used_at) FROM credentials_bearertoken") == [(1,)]
    assert database.execute(ROLE, "SELECT count(*) FROM credentials_serverprocess") == [(0,)]
    assert "Error" not in proxy.log()


def test_proxy_role_sees_that_a_master_key_is_wrong(new_database: Database, tmp_path: Path) -> None:
    """The checks at the start pass if the database does not answer, so a missing right would go unnoticed."""
    new_database.grant()
    new_database.strake.connect("https://api.example.com")
    other_key_of_the_same_id = new_document()
    proxy = proxy_half(new_database, tmp_path, STRAKE_MASTER_KEYS=other_key_of_the_same_id)
    done = proxy.manage("serve", "--only=proxy")
    assert done.returncode == os.EX_CONFIG, done.stderr
    assert "credentials.E002" in done.stderr
