"""Promises of SECURITY.md that only a whole, running Strake can break. The others are tested where they are kept."""

from __future__ import annotations

import base64
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from django.contrib.auth import authenticate
from django.db import connection
from psycopg import sql

from accounts import tokens
from accounts.audit import Actor
from accounts.models import User
from accounts.users import delete_account
from credentials import models, services
from proxy.models import RequestRecord, RequestRollup
from tests import factories
from tests.running import Endpoint, Strake
from tests.upstream import Upstream, fixed, sse

PLAINTEXT_KEY = "sk-canary-5p0ken-0nly-1nside-one-request"


@pytest.fixture
def running(run_strake: Callable[..., Strake], tmp_path: Path) -> Strake:
    """A Strake that writes whatever it writes below `tmp_path`."""
    (tmp_path / "tmp").mkdir()
    return run_strake(TMPDIR=str(tmp_path / "tmp"))


def spellings(secret: str) -> set[bytes]:
    """A secret as it is, and as base64 at each of the three offsets it can stand at."""
    raw = secret.encode()
    return {raw, raw.hex().encode(), *(base64.b64encode(b"_" * n + raw)[4:-4] for n in range(3))}


def files_with(folder: Path, secret: str) -> list[str]:
    """The files below a folder that hold a secret in some spelling."""
    needles = spellings(secret)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if any(needle in path.read_bytes() for needle in needles)]


def journal_is_written(strake: Strake, endpoint: Endpoint, count: int) -> None:
    end = time.monotonic() + 10
    while len(strake.call("records", subdomain=endpoint.subdomain)["records"]) < count:
        assert time.monotonic() < end, "the journal was not written"
        time.sleep(0.05)


# --- P4 ------------------------------------------------------------------------------------------------------------


def test_the_plaintext_key_is_in_no_file_log_or_answer(running: Strake, upstream: Upstream, tmp_path: Path):
    endpoint = running.connect(upstream.url, key=PLAINTEXT_KEY)
    upstream.on("/echo-in-header", fixed(200, [("X-Debug", f"Bearer {PLAINTEXT_KEY}"), ("X-Id", "1")], b"{}"))
    upstream.on("/refused", fixed(401, [("WWW-Authenticate", f"Bearer {PLAINTEXT_KEY}")], b"{}"))
    answers = [
        httpx.request(method, endpoint.url + path, headers=endpoint.bearer)
        for method, path in (("POST", "/fine"), ("GET", "/echo-in-header"), ("GET", "/refused"), ("GET", "/bad//path"))
    ]
    assert upstream.exchanges[0].header("authorization") == f"Bearer {PLAINTEXT_KEY}".encode(), "the key did arrive"
    assert [answer.status_code for answer in answers] == [200, 200, 401, 400]
    assert answers[1].headers["x-id"] == "1"
    for answer in answers[1:]:
        assert PLAINTEXT_KEY not in repr(answer.headers) + answer.text
    outputs = [
        running.manage("verify_vault"),
        running.manage("dumpdata", "accounts", "credentials", "proxy"),
        running.manage("connect", "--email=a@example.org", "--provider=nobody", "--key-stdin", stdin=PLAINTEXT_KEY),
        running.manage("rotate_token", endpoint.token_id),
    ]
    assert [done.returncode == 0 for done in outputs] == [True, True, False, True]
    assert not [done.args for done in outputs if PLAINTEXT_KEY in done.stdout + done.stderr]
    journal_is_written(running, endpoint, 3)
    assert running.stop() == 0
    assert files_with(tmp_path, PLAINTEXT_KEY) == []


# --- P9, P10 -------------------------------------------------------------------------------------------------------


def test_a_stolen_database_holds_no_token(running: Strake, upstream: Upstream, tmp_path: Path):
    endpoint = running.connect(upstream.url)
    rotated = running.rotate(endpoint)
    assert httpx.get(f"{rotated.url}/x", headers=rotated.bearer).status_code == 200
    journal_is_written(running, endpoint, 1)
    assert running.stop() == 0
    for token in (endpoint.token, rotated.token):
        assert files_with(tmp_path, token) == []
    assert tokens.digest(rotated.token) in (running.home / "strake.sqlite3").read_bytes(), "the look would find it"


def test_there_is_no_password_anywhere(alice: User):
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


def test_bodies_touch_no_disk_and_no_log(running: Strake, upstream: Upstream, tmp_path: Path):
    endpoint = running.connect(upstream.url)
    upstream.on("/v1/chat", sse([f"data: {COMPLETION} {n}\n\n".encode() for n in range(50)]))
    open_files: set[str] = set()

    def body() -> Iterator[bytes]:
        for _ in range(200):
            yield PROMPT.encode() * 2000
            open_files.update(regular_files_of(running.workers[0]))

    answer = httpx.post(f"{endpoint.url}/v1/chat", headers=endpoint.bearer, content=body(), timeout=60)
    assert answer.text.count(COMPLETION) == 50
    assert upstream.last.body_size == 200 * 2000 * len(PROMPT)
    # Its database, its log, and the empty file by which gunicorn sees that a worker lives.
    expected = ("strake.sqlite3", running.log_path.name, "wgunicorn-")
    assert not [name for name in open_files if not name.startswith(expected)]
    journal_is_written(running, endpoint, 1)
    assert running.stop() == 0
    assert files_with(tmp_path, PROMPT) == []
    assert files_with(tmp_path, COMPLETION) == []


def regular_files_of(pid: int) -> set[str]:
    """The names of the ordinary files a process has open; what it runs from, it only reads."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue  # closed meanwhile
        if target.startswith("/") and not target.startswith(("/dev/", "/proc/", "/usr/")):
            found.add(Path(target).name)
    return found


def test_path_query_headers_and_address_are_recorded_nowhere(running: Strake, upstream: Upstream, tmp_path: Path):
    endpoint = running.connect(upstream.url)
    answer = httpx.get(
        f"{endpoint.url}/canary-path?canary-query=1", headers={**endpoint.bearer, "X-Canary-Header": "canary-value"}
    )
    assert answer.status_code == 200
    assert b"canary-path" in upstream.last.target
    journal_is_written(running, endpoint, 1)
    assert running.stop() == 0
    for canary in ("canary-path", "canary-query", "canary-header", "canary-value"):
        assert files_with(tmp_path, canary) == []


def test_a_request_record_has_room_for_routing_metadata_only():
    assert {field.name for field in RequestRecord._meta.get_fields()} == {
        "id",
        "endpoint",
        "token",
        "status",
        "latency_ms",
        "first_byte_ms",
        "at",
    }
    assert {field.name for field in RequestRollup._meta.get_fields()} == {
        "id",
        "endpoint",
        "hour",
        "status_class",
        "count",
        "latency_histogram",
    }


# --- P17 -----------------------------------------------------------------------------------------------------------


def test_a_deleted_endpoint_leaves_nothing_of_its_sealed_key_in_the_live_database(
    running: Strake, upstream: Upstream, tmp_path: Path
):
    kept, deleted = running.connect(upstream.url), running.connect(upstream.url)
    sealed = {endpoint: sealed_bytes(running, endpoint) for endpoint in (kept, deleted)}
    assert holds_bytes(running.home, sealed[deleted])
    assert httpx.get(f"{deleted.url}/x", headers=deleted.bearer).status_code == 200
    running.call("delete", subdomain=deleted.subdomain)
    assert httpx.get(f"{deleted.url}/x", headers=deleted.bearer).status_code == 404
    assert holds_bytes(running.home, sealed[kept]), "the look would find it"
    assert not holds_bytes(running.home, sealed[deleted])
    assert httpx.get(f"{kept.url}/x", headers=kept.bearer).status_code == 200


def sealed_bytes(strake: Strake, endpoint: Endpoint) -> list[bytes]:
    """Ciphertext and wrapped data key of an endpoint, read from the file while Strake runs."""
    with sqlite3.connect(f"file:{strake.home / 'strake.sqlite3'}?mode=ro", uri=True) as database:
        row = database.execute(
            "SELECT ciphertext, wrapped_dek FROM credentials_credential c JOIN credentials_endpoint e"
            " ON e.id = c.endpoint_id WHERE e.subdomain = ?",
            [endpoint.subdomain],
        ).fetchone()
    database.close()
    return [bytes(column) for column in row]


def holds_bytes(home: Path, needles: list[bytes]) -> bool:
    return any(needle in path.read_bytes() for path in home.iterdir() for needle in needles)


@pytest.mark.django_db(transaction=True)
def test_deleting_an_account_empties_the_write_ahead_log_too():
    leaver = factories.make_user()
    factories.make_endpoint(owner=leaver)
    log = Path(f"{connection.settings_dict['NAME']}-wal")
    assert log.stat().st_size > 0
    delete_account(actor=Actor(leaver), confirmation=leaver.email)
    assert log.stat().st_size == 0


@pytest.mark.django_db(transaction=True)
def test_a_replaced_key_leaves_nothing_of_its_seal_in_the_files():
    owner = factories.make_user()
    made = factories.make_endpoint(owner=owner)
    old = [bytes(made.credential.ciphertext), bytes(made.credential.wrapped_dek)]
    file = Path(connection.settings_dict["NAME"])
    files = [file, file.with_name(f"{file.name}-wal")]
    assert any(old[0] in path.read_bytes() for path in files), "the look would find it"
    services.replace_key(
        actor=Actor(owner), subdomain=made.endpoint.subdomain, api_key="sk-another-key", unchecked=True
    )
    assert not [path for path in files for needle in old if needle in path.read_bytes()]


@pytest.mark.django_db(transaction=True)
def test_a_log_that_a_reader_keeps_from_being_emptied_is_reported(caplog: pytest.LogCaptureFixture):
    leaver = factories.make_user()
    factories.make_endpoint(owner=leaver)
    reader = sqlite3.connect(connection.settings_dict["NAME"])
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM credentials_credential").fetchone()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 20")
    delete_account(actor=Actor(leaver), confirmation=leaver.email)
    reader.close()
    connection.close()  # the next one waits as long as usual
    assert "write_ahead_log_not_emptied" in caplog.text


@pytest.mark.postgres
def test_on_postgresql_no_table_holds_anything_of_what_was_deleted(tmp_path: Path, postgres_url: str):
    strake = Strake(tmp_path / "home", {"DATABASE_URL": postgres_url})
    strake.manage("migrate", "-v0", check=True)
    try:
        kept, deleted = (strake.connect("https://api.example.com") for _ in range(2))
        with psycopg.connect(postgres_url, autocommit=True) as database:
            secrets = {
                endpoint: database.execute(
                    "SELECT encode(ciphertext, 'hex'), encode(wrapped_dek, 'hex'), encode(digest, 'hex')"
                    " FROM credentials_endpoint e JOIN credentials_credential c ON c.endpoint_id = e.id"
                    " JOIN credentials_bearertoken t ON t.endpoint_id = e.id WHERE subdomain = %s",
                    [endpoint.subdomain],
                ).fetchone()
                for endpoint in (kept, deleted)
            }
            strake.call("delete", subdomain=deleted.subdomain)
            tables = database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            rows = "".join(
                str(database.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table))).fetchall())
                for (table,) in tables
            )
        assert all(value in rows for value in secrets[kept]), "the look would find it"
        assert not [value for value in secrets[deleted] if value in rows]
        assert "endpoint.deleted" in rows, "the audit trail stays"
    finally:
        strake.hang_up()


def test_deleting_takes_every_row_along(alice: User):
    made = factories.make_endpoint(owner=alice)
    subdomain = made.endpoint.subdomain
    services.delete_endpoint(actor=Actor(alice), subdomain=subdomain, confirmation=subdomain)
    assert [model.objects.count() for model in (models.Endpoint, models.Credential, models.BearerToken)] == [0, 0, 0]
