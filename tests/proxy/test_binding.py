"""A sealed key that was moved, edited or pointed elsewhere: one and the same answer, and nobody is called."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing

import httpx
import pytest
from django.test import Client

from accounts import access_tokens
from accounts.audit import Actor
from accounts.models import User
from credentials.models import Credential
from tests import factories
from tests.credentials.vault import OTHER_MASTER_KEY, document
from tests.running import Endpoint, Strake
from tests.upstream import Upstream

SEALED = ["format", "master_key_id", "wrapped_dek", "wrapped_dek_iv", "ciphertext", "iv"]
BOUND = {
    "id": "credentials_credential",
    "destination_url": "credentials_credential",
    "header_name": "credentials_credential",
    "header_template": "credentials_credential",
    "owner_id": "credentials_endpoint",
    "provider": "credentials_endpoint",
}


class Database:
    """Somebody who can write to the database and has no key; `how` is "SQL" or "ORM"."""

    def __init__(self, strake: Strake, how: str) -> None:
        self.strake, self.how = strake, how
        self.path = strake.home / "strake.sqlite3"

    def row(self, table: str, subdomain: str) -> tuple[str, dict[str, object]]:
        """Name and value of the primary key, and all columns."""
        query = (
            "SELECT * FROM credentials_endpoint WHERE subdomain = ?"
            if table == "credentials_endpoint"
            else "SELECT c.* FROM credentials_credential c JOIN credentials_endpoint e ON e.id = c.endpoint_id "
            "WHERE e.subdomain = ?"
        )
        with closing(sqlite3.connect(self.path, timeout=10)) as database:
            database.row_factory = sqlite3.Row
            row = dict(database.execute(query, [subdomain]).fetchone())
        return row["id"], row

    def set(self, table: str, row_id: object, column: str, value: object) -> None:
        if self.how == "ORM":
            is_bytes = isinstance(value, bytes)
            given = value.hex() if isinstance(value, bytes) else value
            self.strake.call("set_field", table=table, row_id=row_id, field=column, value=given, is_hex=is_bytes)
            return
        with closing(sqlite3.connect(self.path, timeout=10)) as database, database:
            changed = database.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", [value, row_id])
            assert changed.rowcount == 1


@pytest.fixture(params=["SQL", "ORM"])
def database(strake: Strake, request: pytest.FixtureRequest) -> Database:
    return Database(strake, request.param)


@pytest.fixture
def by_sql(strake: Strake) -> Database:
    return Database(strake, "SQL")


@pytest.fixture
def two(strake: Strake, upstream: Upstream) -> tuple[Endpoint, Endpoint]:
    """Two endpoints of two people, with nothing in common that a seal is bound to."""
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
    answer = call(endpoint)
    assert (answer.status_code, answer.headers["x-strake-error"]) == (503, "needs_key_again")
    assert answer.json()["error"]["message"].startswith("The stored key of this endpoint cannot be opened.")
    assert upstream.exchanges == []


def assert_works(endpoint: Endpoint) -> None:
    assert call(endpoint).status_code == 200


@pytest.mark.parametrize("column", SEALED)
def test_a_column_of_the_sealed_record_from_another_row_or_made_up_does_not_open(
    column: str, strake: Strake, two: tuple[Endpoint, Endpoint], database: Database, upstream: Upstream
):
    one, two_ = two
    table = "credentials_credential"
    one_id, mine = database.row(table, one.subdomain)
    _, other = database.row(table, two_.subdomain)
    made_up = {"format": 2, "master_key_id": "unknown"}.get(column, b"\0" * len(bytes(str(mine[column]), "utf-8")))
    for value in [
        made_up,
        *([] if column in {"format", "master_key_id"} else [other[column], b"", mine[column] + b"\0"]),
    ]:
        database.set(table, one_id, column, value)
        assert_closed(one, upstream)
        assert_works(two_)
    database.set(table, one_id, column, mine[column])
    assert_works(one)


@pytest.mark.parametrize("column", BOUND)
def test_what_the_seal_is_bound_to_cannot_be_changed_behind_it(
    column: str, two: tuple[Endpoint, Endpoint], database: Database, upstream: Upstream
):
    one, two_ = two
    table = BOUND[column]
    row_id, mine = database.row(table, one.subdomain)
    _, other = database.row(table, two_.subdomain)
    value = uuid.uuid4().hex if column == "id" else "openai" if column == "provider" else other[column]
    assert value != mine[column]
    database.set(table, row_id, column, value)
    assert_closed(one, upstream)
    assert_works(two_)
    database.set(table, value if column == "id" else row_id, column, mine[column])
    assert_works(one)


def test_two_records_that_changed_places_open_in_neither(
    two: tuple[Endpoint, Endpoint], by_sql: Database, upstream: Upstream
):
    table = "credentials_credential"
    (one_id, one), (other_id, other) = (by_sql.row(table, endpoint.subdomain) for endpoint in two)

    def put(first: object, second: object) -> None:
        for row_id, endpoint_id in ((one_id, uuid.uuid4().hex), (other_id, second), (one_id, first)):
            by_sql.set(table, row_id, "endpoint_id", endpoint_id)

    put(other["endpoint_id"], one["endpoint_id"])
    for endpoint in two:
        assert_closed(endpoint, upstream)
    put(one["endpoint_id"], other["endpoint_id"])
    for endpoint in two:
        assert_works(endpoint)


@pytest.mark.parametrize("value", ["text", 5, "", b"\xff"], ids=["text", "number", "empty", "bytes"])
@pytest.mark.parametrize("column", [*SEALED, "destination_url", "header_name", "header_template"])
def test_a_value_of_another_type_which_sqlite_takes_everywhere_is_no_other_error(
    column: str, value: object, two: tuple[Endpoint, Endpoint], by_sql: Database, upstream: Upstream
):
    one, two_ = two
    one_id, mine = by_sql.row("credentials_credential", one.subdomain)
    by_sql.set("credentials_credential", one_id, column, value)
    assert_closed(one, upstream)
    assert_works(two_)
    by_sql.set("credentials_credential", one_id, column, mine[column])
    assert_works(one)


def test_a_whole_record_put_behind_an_endpoint_of_ones_own_does_not_open(
    two: tuple[Endpoint, Endpoint], database: Database, upstream: Upstream
):
    """The thief of a database dump who is also a user, and writes the stolen record behind an own endpoint."""
    victim, thief = two
    table = "credentials_credential"
    _, stolen = database.row(table, victim.subdomain)
    thief_id, own = database.row(table, thief.subdomain)
    for column in SEALED:
        database.set(table, thief_id, column, stolen[column])
    assert_closed(thief, upstream)
    for column in ("destination_url", "header_name", "header_template"):
        database.set(table, thief_id, column, stolen[column])
    assert_closed(thief, upstream)
    assert own["id"] != stolen["id"]
    assert_works(victim)


def test_a_destination_edited_through_the_orm_reaches_nobody(
    strake: Strake, two: tuple[Endpoint, Endpoint], upstream: Upstream
):
    one, two_ = two
    strake.python(
        "from credentials.models import Credential\n"
        "row = Credential.objects.get(endpoint__subdomain=sys.argv[1])\n"
        "row.destination_url = sys.argv[2]\nrow.save()\n",
        one.subdomain,
        upstream.url + "/elsewhere",
    )
    assert_closed(one, upstream)
    assert_works(two_)


def test_the_form_does_not_change_a_destination_without_the_key(alice: User):
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


def test_only_the_endpoints_of_a_lost_master_key_stop(run_strake: Callable[..., Strake], upstream: Upstream):
    strake = run_strake()
    lost = strake.connect(upstream.url)
    keys = strake.home / "master-keys.json"
    draft = keys.with_name("draft")
    draft.write_text(document("other", other=OTHER_MASTER_KEY))
    draft.chmod(0o600)
    draft.replace(keys)  # the running server picks it up
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


def test_an_endpoint_of_a_lost_master_key_says_so_in_the_dashboard_and_the_api(alice: User, settings):
    lost = factories.make_endpoint(owner=alice, label="Lost")
    settings.STRAKE_MASTER_KEYS = document("other", other=OTHER_MASTER_KEY)
    works = factories.make_endpoint(owner=alice, label="Works")
    browser = Client()
    browser.force_login(alice)
    assert browser.get("/endpoints/").content.count(b"Needs its key again") == 1
    for made, says in ((lost, True), (works, False)):
        page = browser.get(f"/endpoints/{made.endpoint.subdomain}/")
        assert (b"needs its key again" in page.content) == says
    token = access_tokens.create_access_token(actor=Actor(alice), user=alice, label="script").plaintext
    script = Client(headers={"authorization": f"Bearer {token}"})
    listed = {row["label"]: row["needs_key_again"] for row in script.get("/api/v1/endpoints").json()["endpoints"]}
    assert listed == {"Lost": True, "Works": False}
    detail = script.get(f"/api/v1/endpoints/{lost.endpoint.subdomain}").json()["endpoint"]
    assert detail["needs_key_again"] is True
