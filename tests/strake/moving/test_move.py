"""`move_to` copies everything to PostgreSQL, also if it is killed on the way, and refuses a database that is in use."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from accounts.audit_chain import VerifierKey
from accounts.verify_audit import Verification
from credentials.vault.keyring import new_document
from strake import database_roles
from strake.moving.service import _LEFT_BEHIND
from tests.support.postgres import PASSWORD
from tests.support.running import ROOT, Strake, prepare_home
from tests.support.upstream import Upstream, fixed

pytestmark = pytest.mark.postgres

# A move that is killed when it has copied a part of the request records.
KILLED = """
import os, signal
from strake.moving import service
service.BATCH_ROWS = 50
def progress(table, done, total):
    if table == "proxy_requestrecord" and done >= 100:
        os.kill(os.getpid(), signal.SIGKILL)
service.move(url=sys.argv[1], progress=progress)
"""


def rows(execute: Callable[[str], Any]) -> dict[str, int]:
    """The number of rows of each table that moves."""
    tables = [model._meta.db_table for label, model in database_roles.models().items() if label not in _LEFT_BEHIND]
    return {table: execute(f'SELECT count(*) FROM "{table}"').fetchone()[0] for table in tables}


def trail(execute: Callable[[str], Any]) -> list[tuple[Any, ...]]:
    columns = "id, action, subject_type, subject_id, subject_label, via"
    found: list[tuple[Any, ...]] = execute(f"SELECT {columns} FROM accounts_auditevent ORDER BY id").fetchall()
    return found


def verified(strake: Strake, signer: Strake, kept: str) -> int:
    """Verify the audit log against a checkpoint that was kept. Returns how many events it has."""
    verification = Verification(VerifierKey.parse(signer.manage("checkpoint_audit", "--key", check=True).stdout))
    verification.read_checkpoint(kept)
    verification.read(strake.manage("export_audit", check=True).stdout.splitlines())
    verification.finish()
    return verification.last


def test_killed_move_continues_and_everything_works(
    run_strake: Callable[..., Strake], upstream: Upstream, postgres_url: str
) -> None:
    upstream.default = fixed(200, body=b"{}")
    strake = run_strake()
    endpoint = strake.connect(upstream.url)
    strake.call("fill", email="owner@example.org", endpoints=3, tokens_first=2, records=300)
    kept = strake.manage("checkpoint_audit", check=True).stdout
    running = strake.call("command", arguments=["move_to", postgres_url])
    assert "Stop it first" in running["failed"]
    assert strake.stop() == 0
    path = strake.home / "data/strake.sqlite3"
    before = path.read_bytes()

    command = [sys.executable, "-c", f"import django, sys; django.setup()\n{KILLED}", postgres_url]
    killed = subprocess.run(command, cwd=ROOT, env=strake.environment, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL
    with psycopg.connect(postgres_url) as connection:
        assert rows(connection.execute)["proxy_requestrecord"] == 100
        assert rows(connection.execute)["credentials_bearertoken"] == 0

    done = strake.manage("move_to", "-", stdin=f"{postgres_url}\n", check=True)
    assert PASSWORD not in done.stdout + done.stderr
    with psycopg.connect(postgres_url) as connection, sqlite3.connect(path) as source:
        assert rows(connection.execute) == rows(source.execute)
        assert (before_move := trail(connection.execute)) == trail(source.execute)
    assert path.read_bytes() == before

    moved = run_strake(
        DATABASE_URL=postgres_url, STRAKE_MASTER_KEYS=(strake.home / "vault/master-keys.json").read_text()
    )
    url = f"{moved.url}{endpoint.path}/v1/models"
    assert httpx.get(url, headers=endpoint.bearer, timeout=60).status_code == 200
    moved.connect(upstream.url)  # takes new ids from every sequence
    assert verified(moved, strake, kept) > len(before_move)
    assert "has rows in" in strake.call("command", arguments=["move_to", postgres_url])["failed"]


@pytest.mark.redis
def test_printed_lines_are_the_new_environment(
    tmp_path: Path, migrated_database: Path, postgres_url: str, redis_url: str, upstream: Upstream
) -> None:
    upstream.default = fixed(200, body=b"{}")
    home = prepare_home(tmp_path / "one machine", migrated_database)
    strake = Strake(home, {"STRAKE_BASE_URL": "https://strake.example.org"})
    del strake.environment["STRAKE_RUNTIME"]
    endpoint = strake.connect(upstream.url)
    strake.hang_up()
    printed = strake.manage("move_to", "-", stdin=f"{postgres_url}\n", check=True).stdout
    lines = dict(re.findall(r"^  (\w+)=(.*)$", printed, flags=re.MULTILINE))
    ours = {"DATABASE_URL": postgres_url, "REDIS_URL": redis_url, "EMAIL_URL": "smtp://127.0.0.1:1"}
    assert all(lines.pop(name).startswith("…") for name in ours)
    audit_key = strake.manage("checkpoint_audit", "--key", check=True).stdout

    strake.environment |= {name: "".join(shlex.split(value)) for name, value in lines.items()} | ours
    with strake:
        url = f"{strake.url}{endpoint.path}/v1/models"
        assert httpx.get(url, headers=endpoint.bearer, timeout=60).status_code == 200
    assert strake.manage("checkpoint_audit", "--key", check=True).stdout == audit_key

    secret_key = strake.environment.pop("STRAKE_SECRET_KEY_FILE")
    assert Path(secret_key).stat().st_size > 50
    refused = strake.manage("serve")
    assert refused.returncode == os.EX_CONFIG
    assert f"Set STRAKE_SECRET_KEY_FILE={secret_key}" in refused.stderr
    assert "Create one" not in refused.stderr


def test_database_of_something_else_is_refused(tmp_path: Path, migrated_database: Path, postgres_url: str) -> None:
    home = tmp_path / "strake"
    (home / "data").mkdir(parents=True)
    (home / "data/strake.sqlite3").write_bytes(migrated_database.read_bytes())
    strake = Strake(home, {"STRAKE_MASTER_KEYS": new_document()})
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE invoices (id int)")
    try:
        assert "something else: invoices" in strake.call("command", arguments=["move_to", postgres_url])["failed"]
        wrong = strake.call("command", arguments=["move_to", postgres_url.replace("strake_test_", "no_")])
        assert "does not exist" in wrong["failed"]
        assert "should look like" in strake.call("command", arguments=["move_to", "mysql://x"])["failed"]
    finally:
        strake.hang_up()
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (1,)
