"""Promises of SECURITY.md that only a running Strake can break. The others are tested with their modules."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from django.contrib.auth import authenticate
from django.db import connection
from psycopg import sql

from accounts import tokens
from accounts.actors import Person
from accounts.models import User
from accounts.users import delete_account
from credentials import models, services
from proxy.models import RefusalCount, RequestRecord, RequestRollup
from tests.support import factories
from tests.support.canaries import Canary, leaks
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream, eventually, fixed, sse

PLAINTEXT_KEY = "sk-canary-5p0ken-0nly-1nside-one-request"


@pytest.fixture
def running(run_strake: Callable[..., Strake], tmp_path: Path) -> Iterator[Strake]:
    """A Strake that writes all its files below `tmp_path`, and its sockets in a folder with a short path."""
    (tmp_path / "tmp").mkdir()
    with tempfile.TemporaryDirectory(prefix="strake-run-") as runtime:
        yield run_strake(TMPDIR=str(tmp_path / "tmp"), STRAKE_RUNTIME=f"{runtime}/run")


def files_with(folder: Path, secret: str) -> list[str]:
    """Return the files below a folder that contain a secret in any encoding."""
    canary = Canary("secret", secret.encode())
    return [path.name for path in folder.rglob("*") if path.is_file() and any(leaks([canary], path.read_bytes()))]


def wait_for_records(strake: Strake, endpoint: Endpoint, count: int) -> None:
    """Wait until the request log of an endpoint has `count` records."""
    eventually(lambda: len(strake.call("records", subdomain=endpoint.subdomain)["records"]) >= count)


# --- P4 ------------------------------------------------------------------------------------------------------------


def test_plaintext_key_is_in_no_file_or_response(running: Strake, upstream: Upstream, tmp_path: Path) -> None:
    endpoint = running.connect(upstream.url, key=PLAINTEXT_KEY)
    upstream.on("/echo-in-header", fixed(200, [("X-Debug", f"Bearer {PLAINTEXT_KEY}"), ("X-Id", "1")], b"{}"))
    upstream.on("/refused", fixed(401, [("WWW-Authenticate", f"Bearer {PLAINTEXT_KEY}")], b"{}"))
    responses = [
        httpx.request(method, endpoint.url + path, headers=endpoint.bearer)
        for method, path in (("POST", "/fine"), ("GET", "/echo-in-header"), ("GET", "/refused"), ("GET", "/bad//path"))
    ]
    assert upstream.exchanges[0].header("authorization") == f"Bearer {PLAINTEXT_KEY}".encode(), (
        "the provider received the key"
    )
    assert [response.status_code for response in responses] == [200, 200, 401, 400]
    assert responses[1].headers["x-id"] == "1"
    for response in responses[1:]:
        assert PLAINTEXT_KEY not in repr(response.headers) + response.text
    outputs = [
        running.manage("verify_vault"),
        running.manage("dumpdata", "accounts", "credentials", "proxy"),
        running.manage("connect", "--email=a@example.org", "--provider=nobody", "--key-stdin", stdin=PLAINTEXT_KEY),
        running.manage("rotate_token", endpoint.token_id),
    ]
    assert [done.returncode == 0 for done in outputs] == [True, True, False, True]
    assert not [done.args for done in outputs if PLAINTEXT_KEY in done.stdout + done.stderr]
    wait_for_records(running, endpoint, 3)  # the fourth was refused
    assert running.stop() == 0
    assert files_with(tmp_path, PLAINTEXT_KEY) == []


# --- P9, P10 -------------------------------------------------------------------------------------------------------


def test_stolen_database_holds_no_token(running: Strake, upstream: Upstream, tmp_path: Path) -> None:
    endpoint = running.connect(upstream.url)
    rotated = running.rotate(endpoint)
    assert httpx.get(f"{rotated.url}/x", headers=rotated.bearer).status_code == 200
    wait_for_records(running, endpoint, 1)
    assert running.stop() == 0
    for token in (endpoint.token, rotated.token):
        assert files_with(tmp_path, token) == []
    assert tokens.digest(rotated.token) in (running.home / "data/strake.sqlite3").read_bytes(), (
        "the search would find it"
    )


def test_there_are_no_passwords(alice: User) -> None:
    columns = [
        f"{table}.{column.name}"
        for table in connection.introspection.table_names()
        for column in connection.introspection.get_table_description(connection.cursor(), table)
    ]
    assert "accounts_user.email" in columns
    assert not [column for column in columns if "password" in column]
    assert authenticate(username=alice.email, password="") is None
    assert authenticate(email=alice.email) is None


# --- P14, P15 ------------------------------------------------------------------------------------------------------

PROMPT = "canary-prompt-never-to-be-seen"
COMPLETION = "canary-completion-never-to-be-seen"


@pytest.mark.root
def test_bodies_reach_no_disk_or_log(running: Strake, upstream: Upstream, tmp_path: Path) -> None:
    endpoint = running.connect(upstream.url)
    upstream.on("/v1/chat", sse([f"data: {COMPLETION} {n}\n\n".encode() for n in range(50)]))
    open_files: set[str] = set()

    def body() -> Iterator[bytes]:
        for _ in range(200):
            yield PROMPT.encode() * 2000
            open_files.update(regular_files_of(running.workers[0]))

    response = httpx.post(f"{endpoint.url}/v1/chat", headers=endpoint.bearer, content=body(), timeout=60)
    assert response.text.count(COMPLETION) == 50
    assert upstream.last.body_size == 200 * 2000 * len(PROMPT)
    # The database, the log, and the empty file by which gunicorn sees that a worker is alive.
    expected = ("strake.sqlite3", running.log_path.name, "wgunicorn-")
    assert not [name for name in open_files if not name.startswith(expected)]
    wait_for_records(running, endpoint, 1)
    assert running.stop() == 0
    assert files_with(tmp_path, PROMPT) == []
    assert files_with(tmp_path, COMPLETION) == []


def regular_files_of(pid: int) -> set[str]:
    """Return the names of the files that a process has open, except its code."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue  # closed since then
        if target.startswith("/") and not target.startswith(("/dev/", "/proc/", "/usr/")):
            found.add(Path(target).name)
    return found


def test_path_query_and_headers_are_not_recorded(running: Strake, upstream: Upstream, tmp_path: Path) -> None:
    endpoint = running.connect(upstream.url)
    response = httpx.get(
        f"{endpoint.url}/canary-path?canary-query=1", headers={**endpoint.bearer, "X-Canary-Header": "canary-value"}
    )
    assert response.status_code == 200
    assert b"canary-path" in upstream.last.target
    wait_for_records(running, endpoint, 1)
    assert running.stop() == 0
    for canary in ("canary-path", "canary-query", "canary-header", "canary-value"):
        assert files_with(tmp_path, canary) == []


def test_request_records_hold_only_routing_metadata() -> None:
    assert {field.name for field in RequestRecord._meta.get_fields()} == {
        "id",
        "endpoint",
        "token",
        "status",
        "latency_ms",
        "first_byte_ms",
        "at",
        "error",
        "phase",
    }
    assert {field.name for field in RefusalCount._meta.get_fields()} == {
        "id",
        "endpoint",
        "token",
        "minute",
        "code",
        "count",
        "last_at",
    }
    assert {field.name for field in RequestRollup._meta.get_fields()} == {
        "id",
        "endpoint",
        "token",
        "hour",
        "status_class",
        "count",
        "latency_max_ms",
        "latency_histogram",
    }


# --- P17 -----------------------------------------------------------------------------------------------------------


def test_deleted_endpoint_leaves_no_ciphertext(running: Strake, upstream: Upstream) -> None:
    kept, deleted = running.connect(upstream.url), running.connect(upstream.url)
    sealed = {endpoint: sealed_bytes(running, endpoint) for endpoint in (kept, deleted)}
    assert holds_bytes(running.home, sealed[deleted])
    assert httpx.get(f"{deleted.url}/x", headers=deleted.bearer).status_code == 200
    running.call("delete", subdomain=deleted.subdomain)
    assert httpx.get(f"{deleted.url}/x", headers=deleted.bearer).status_code == 410
    assert holds_bytes(running.home, sealed[kept]), "the search would find it"
    assert not holds_bytes(running.home, sealed[deleted])
    assert httpx.get(f"{kept.url}/x", headers=kept.bearer).status_code == 200


def sealed_bytes(strake: Strake, endpoint: Endpoint) -> list[bytes]:
    """Read the ciphertext and the wrapped data key of an endpoint from the database file."""
    with sqlite3.connect(f"file:{strake.home / 'data/strake.sqlite3'}?mode=ro", uri=True) as database:
        row = database.execute(
            "SELECT ciphertext, wrapped_dek FROM credentials_sealedkey s JOIN credentials_credential c"
            " ON c.id = s.credential_id JOIN credentials_endpoint e ON e.id = c.endpoint_id WHERE e.subdomain = ?",
            [endpoint.subdomain],
        ).fetchone()
    database.close()
    return [bytes(column) for column in row]


def holds_bytes(home: Path, needles: list[bytes]) -> bool:
    return any(needle in path.read_bytes() for path in home.rglob("*") if path.is_file() for needle in needles)


@pytest.mark.django_db(transaction=True)
def test_deleting_an_account_empties_the_wal() -> None:
    leaver = factories.make_user()
    factories.make_endpoint(owner=leaver)
    log = Path(f"{connection.settings_dict['NAME']}-wal")
    assert log.stat().st_size > 0
    delete_account(actor=Person(leaver), confirmation=leaver.email)
    assert log.stat().st_size == 0


@pytest.mark.django_db(transaction=True)
def test_replaced_key_leaves_no_ciphertext() -> None:
    owner = factories.make_user()
    made = factories.make_endpoint(owner=owner)
    sealed = made.credential.sealed()
    old = [sealed.ciphertext, sealed.wrap.wrapped_dek]
    file = Path(connection.settings_dict["NAME"])
    files = [file, file.with_name(f"{file.name}-wal")]
    assert any(old[0] in path.read_bytes() for path in files), "the search would find it"
    services.replace_key(
        actor=Person(owner), subdomain=made.endpoint.subdomain, api_key="sk-another-key", unchecked=True
    )
    assert not [path for path in files for needle in old if needle in path.read_bytes()]


@pytest.mark.django_db(transaction=True)
def test_wal_that_cannot_be_emptied_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    leaver = factories.make_user()
    factories.make_endpoint(owner=leaver)
    reader = sqlite3.connect(connection.settings_dict["NAME"])
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM credentials_credential").fetchone()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 20")
    delete_account(actor=Person(leaver), confirmation=leaver.email)
    reader.close()
    connection.close()  # the next connection has the usual timeout again
    assert "write_ahead_log_not_emptied" in caplog.text


@pytest.mark.postgres
def test_postgresql_holds_no_deleted_endpoint(migrated_home: Path, migrated_url: str) -> None:
    strake = Strake(migrated_home, {"DATABASE_URL": migrated_url})
    try:
        kept, deleted = (strake.connect("https://api.example.com") for _ in range(2))
        with psycopg.connect(migrated_url, autocommit=True) as database:
            values = {endpoint: encrypted_columns(database, endpoint) for endpoint in (kept, deleted)}
            strake.call("delete", subdomain=deleted.subdomain)
            tables = database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            rows = "".join(
                str(database.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table))).fetchall())
                for (table,) in tables
            )
        assert all(value in rows for value in values[kept]), "the search would find it"
        assert not [value for value in values[deleted] if value in rows]
        assert "endpoint.deleted" in rows, "the audit log stays"
    finally:
        strake.hang_up()


def encrypted_columns(database: psycopg.Connection, endpoint: Endpoint) -> tuple[str, ...]:
    """Read the ciphertext, the wrapped data key and the token digest of an endpoint in hex."""
    row = database.execute(
        "SELECT encode(ciphertext, 'hex'), encode(wrapped_dek, 'hex'), encode(digest, 'hex')"
        " FROM credentials_endpoint e JOIN credentials_credential c ON c.endpoint_id = e.id"
        " JOIN credentials_sealedkey s ON s.credential_id = c.id"
        " JOIN credentials_bearertoken t ON t.endpoint_id = e.id WHERE subdomain = %s",
        [endpoint.subdomain],
    ).fetchone()
    assert row is not None
    return row


def test_deleting_an_endpoint_deletes_its_rows(alice: User) -> None:
    made = factories.make_endpoint(owner=alice)
    subdomain = made.endpoint.subdomain
    services.delete_endpoint(actor=Person(alice), subdomain=subdomain, confirmation=subdomain)
    left = (models.Endpoint, models.Credential, models.SealedKey, models.BearerToken)
    assert not [model for model in left if model._default_manager.exists()]
