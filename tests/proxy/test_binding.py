"""A sealed key that was moved, edited or pointed elsewhere gives one error, and no provider is called."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx
import pytest
from django.test import Client
from pytest_django import Settings

from accounts import access_tokens
from accounts.actors import Person
from accounts.models import User
from credentials.models import Credential
from tests.support import factories
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream
from tests.support.vault import OTHER_MASTER_KEY, document

SEALED = ["format", "master_key_id", "wrapped_dek", "wrapped_dek_iv", "ciphertext", "iv"]
BOUND = {
    "id": "credentials_credential",
    "destination_url": "credentials_credential",
    "header_name": "credentials_credential",
    "header_template": "credentials_credential",
    "owner_id": "credentials_endpoint",
    "provider": "credentials_endpoint",
}
KEYS = {"credentials_endpoint": "id", "credentials_credential": "id", "credentials_sealedkey": "credential_id"}


class Database:
    """An attacker who can write to the database but has no master key. `how` is "SQL" or "ORM"."""

    def __init__(self, strake: Strake, how: str) -> None:
        self.strake, self.how = strake, how
        self.path = strake.home / "data/strake.sqlite3"

    def row(self, table: str, subdomain: str) -> tuple[str, dict[str, Any]]:
        """The primary key and all columns of the endpoint's row in `table`."""
        query = (
            f"SELECT {table}.* FROM credentials_endpoint "
            "LEFT JOIN credentials_credential ON credentials_credential.endpoint_id = credentials_endpoint.id "
            "LEFT JOIN credentials_sealedkey ON credentials_sealedkey.credential_id = credentials_credential.id "
            "WHERE subdomain = ?"
        )
        with closing(sqlite3.connect(self.path, timeout=60)) as database:
            database.row_factory = sqlite3.Row
            row = dict(database.execute(query, [subdomain]).fetchone())
        return row[KEYS[table]], row

    def set(self, table: str, row_id: object, column: str, value: object) -> None:
        if self.how == "ORM":
            is_bytes = isinstance(value, bytes)
            given = value.hex() if isinstance(value, bytes) else value
            self.strake.call("set_field", table=table, row_id=row_id, field=column, value=given, is_hex=is_bytes)
            return
        with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
            changed = database.execute(f"UPDATE {table} SET {column} = ? WHERE {KEYS[table]} = ?", [value, row_id])
            assert changed.rowcount == 1
            if (table, column) == ("credentials_credential", "id"):  # Its sealed key comes along.
                move = "UPDATE credentials_sealedkey SET credential_id = ? WHERE credential_id = ?"
                assert database.execute(move, [value, row_id]).rowcount == 1


@pytest.fixture(params=["SQL", "ORM"])
def database(strake: Strake, request: pytest.FixtureRequest) -> Database:
    return Database(strake, request.param)


@pytest.fixture
def by_sql(strake: Strake) -> Database:
    return Database(strake, "SQL")


@pytest.fixture
def two(strake: Strake, upstream: Upstream) -> tuple[Endpoint, Endpoint]:
    """Two endpoints of two people that share nothing that a seal is bound to."""
    return (
        strake.connect(upstream.url + "/one", key="sk-one", email="one@example.org"),
        strake.connect(
            upstream.url + "/two",
            key="sk-two-longer",
            email="two@example.org",
            header_name="X-Other",
            header_template="Token {{secret}}",
        ),
    )


def call(endpoint: Endpoint) -> httpx.Response:
    return httpx.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer)


def assert_closed(endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.exchanges.clear()
    response = call(endpoint)
    assert (response.status_code, response.headers["x-strake-error"]) == (503, "needs_key_again")
    assert response.json()["error"]["message"].startswith("The stored key of this endpoint cannot be opened.")
    assert upstream.exchanges == []


def assert_works(endpoint: Endpoint) -> None:
    assert call(endpoint).status_code == 200


@pytest.mark.parametrize("column", SEALED)
def test_replaced_sealed_column_does_not_open(
    column: str, strake: Strake, two: tuple[Endpoint, Endpoint], database: Database, upstream: Upstream
) -> None:
    first, second = two
    table = "credentials_sealedkey"
    one_id, mine = database.row(table, first.subdomain)
    _, other = database.row(table, second.subdomain)
    made_up = {"format": 2, "master_key_id": "unknown"}.get(column, b"\0" * len(bytes(str(mine[column]), "utf-8")))
    for value in [
        made_up,
        *([] if column in {"format", "master_key_id"} else [other[column], b"", mine[column] + b"\0"]),
    ]:
        database.set(table, one_id, column, value)
        assert_closed(first, upstream)
        assert_works(second)
    database.set(table, one_id, column, mine[column])
    assert_works(first)


@pytest.mark.parametrize("column", BOUND)
def test_changed_bound_column_does_not_open(
    column: str, two: tuple[Endpoint, Endpoint], database: Database, upstream: Upstream
) -> None:
    first, second = two
    table = BOUND[column]
    row_id, mine = database.row(table, first.subdomain)
    _, other = database.row(table, second.subdomain)
    value = uuid.uuid4().hex if column == "id" else "openai" if column == "provider" else other[column]
    assert value != mine[column]
    database.set(table, row_id, column, value)
    assert_closed(first, upstream)
    assert_works(second)
    database.set(table, value if column == "id" else row_id, column, mine[column])
    assert_works(first)


@pytest.mark.parametrize(
    ("table", "column"), [("credentials_credential", "endpoint_id"), ("credentials_sealedkey", "credential_id")]
)
def test_swapped_records_open_in_neither_place(
    table: str, column: str, two: tuple[Endpoint, Endpoint], by_sql: Database, upstream: Upstream
) -> None:
    one, other = (by_sql.row(table, endpoint.subdomain)[1][column] for endpoint in two)

    def swap() -> None:
        with closing(sqlite3.connect(by_sql.path, timeout=60)) as database, database:
            for value, instead in ((one, "neither"), (other, one), ("neither", other)):
                database.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", [instead, value])

    swap()
    for endpoint in two:
        assert_closed(endpoint, upstream)
    swap()
    for endpoint in two:
        assert_works(endpoint)


@pytest.mark.parametrize("value", ["text", 5, "", b"\xff"], ids=["text", "number", "empty", "bytes"])
@pytest.mark.parametrize("column", [*SEALED, "destination_url", "header_name", "header_template"])
def test_value_of_other_type_gives_the_same_error(
    column: str, value: object, two: tuple[Endpoint, Endpoint], by_sql: Database, upstream: Upstream
) -> None:
    first, second = two
    table = "credentials_sealedkey" if column in SEALED else "credentials_credential"
    one_id, mine = by_sql.row(table, first.subdomain)
    by_sql.set(table, one_id, column, value)
    assert_closed(first, upstream)
    assert_works(second)
    by_sql.set(table, one_id, column, mine[column])
    assert_works(first)


def test_missing_record_gives_the_same_error(
    strake: Strake, two: tuple[Endpoint, Endpoint], upstream: Upstream
) -> None:
    first, second = two
    with closing(sqlite3.connect(strake.home / "data/strake.sqlite3", timeout=60)) as database, database:
        database.execute(
            "DELETE FROM credentials_sealedkey WHERE credential_id = (SELECT c.id FROM credentials_credential c "
            "JOIN credentials_endpoint e ON e.id = c.endpoint_id WHERE e.subdomain = ?)",
            [first.subdomain],
        )
    assert_closed(first, upstream)
    assert_works(second)


def test_stolen_record_behind_own_endpoint_is_closed(
    two: tuple[Endpoint, Endpoint], database: Database, upstream: Upstream
) -> None:
    """A thief of a database dump who is also a user writes the stolen record behind an endpoint of theirs."""
    victim, thief = two
    for table, columns in (
        ("credentials_sealedkey", SEALED),
        ("credentials_credential", ["destination_url", "header_name", "header_template"]),
    ):
        stolen_id, stolen = database.row(table, victim.subdomain)
        thief_id, _ = database.row(table, thief.subdomain)
        for column in columns:
            database.set(table, thief_id, column, stolen[column])
        assert_closed(thief, upstream)
        assert thief_id != stolen_id
    assert_works(victim)


def test_destination_edited_by_orm_is_never_called(
    strake: Strake, two: tuple[Endpoint, Endpoint], upstream: Upstream
) -> None:
    first, second = two
    strake.python(
        "from credentials.models import Credential\n"
        "row = Credential.objects.get(endpoint__subdomain=sys.argv[1])\n"
        "row.destination_url = sys.argv[2]\nrow.save()\n",
        first.subdomain,
        upstream.url + "/elsewhere",
    )
    assert_closed(first, upstream)
    assert_works(second)


def test_form_requires_key_for_new_destination(alice: User) -> None:
    made = factories.make_endpoint(owner=alice, destination_url="https://api.example.com")
    browser = Client()
    browser.force_login(alice)
    before = Credential.objects.values().get()
    path = f"/endpoints/{made.endpoint.subdomain}/destination/"
    for data in (
        {"destination_url": "https://evil.example"},
        {"destination_url": "https://evil.example", "api_key": ""},
    ):
        assert browser.post(path, data).status_code == 400
    assert Credential.objects.values().get() == before


# --- A master key that is gone -------------------------------------------------------------------------------------


def test_lost_master_key_stops_only_its_endpoints(run_strake: Callable[..., Strake], upstream: Upstream) -> None:
    strake = run_strake()
    lost = strake.connect(upstream.url)
    keys = strake.home / "vault/master-keys.json"
    draft = keys.with_name("draft")
    draft.write_text(document("other", other=OTHER_MASTER_KEY))
    draft.chmod(0o600)
    draft.replace(keys)  # The running server reads the new file.
    works = strake.connect(upstream.url)
    assert_closed(lost, upstream)
    assert_works(works)
    seen = strake.manage("check")
    assert seen.returncode == 0
    assert "credentials.W001" in seen.stderr
    verified = strake.manage("verify_vault")
    assert verified.returncode == 1
    assert verified.stdout.startswith(lost.subdomain)
    assert works.subdomain not in verified.stdout


def test_dashboard_and_api_show_lost_master_key(alice: User, settings: Settings) -> None:
    lost = factories.make_endpoint(owner=alice, label="Lost")
    settings.STRAKE_MASTER_KEYS = document("other", other=OTHER_MASTER_KEY)
    works = factories.make_endpoint(owner=alice, label="Works")
    browser = Client()
    browser.force_login(alice)
    assert browser.get("/endpoints/").content.count(b"Needs its key again") == 1
    for made, says in ((lost, True), (works, False)):
        page = browser.get(f"/endpoints/{made.endpoint.subdomain}/")
        assert (b"needs its key again" in page.content) == says
    token = access_tokens.create(actor=Person(alice), user=alice, label="script").plaintext
    script = Client(headers={"authorization": f"Bearer {token}"})
    listed = {row["label"]: row["needs_key_again"] for row in script.get("/api/v1/endpoints").json()["endpoints"]}
    assert listed == {"Lost": True, "Works": False}
    detail = script.get(f"/api/v1/endpoints/{lost.endpoint.subdomain}").json()["endpoint"]
    assert detail["needs_key_again"] is True
