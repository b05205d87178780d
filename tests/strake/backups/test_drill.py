"""The drill of docs/operations.md: work, back up, end things, restore, and end them again. Through a running Strake."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.database_roles import Database, both_halves, empty, migrated
from tests.support.postgres import PASSWORD, Cluster
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream, fixed

RunStrake = Callable[..., Strake]


def status(strake: Strake, endpoint: Endpoint) -> int:
    url = f"{strake.url}{endpoint.path}/v1/models"
    return httpx.get(url, headers=endpoint.bearer, timeout=60).status_code


def succeeds(strake: Strake, *arguments: str) -> str:
    done = strake.call("command", arguments=list(arguments))
    assert not done["failed"], done
    return str(done["output"])


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_ended_tokens_stay_ended_after_a_restore(
    database: str, run_strake: RunStrake, upstream: Upstream, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    upstream.default = fixed(200, body=b"{}")
    environment = {}
    if database == "postgresql":
        environment = {"DATABASE_URL": request.getfixturevalue("migrated_url"), "PATH": recording_programs(tmp_path)}
    strake = run_strake(**environment)
    kept, revoked, rotated, deleted = (strake.connect(upstream.url) for _ in range(4))
    erased = strake.connect(upstream.url, email="erased@example.org")
    assert {status(strake, one) for one in (kept, revoked, rotated, deleted, erased)} == {200}

    backup, trail = tmp_path / "strake.backup", tmp_path / "trail.ndjson"
    succeeds(strake, "backup", str(backup))
    strake.revoke(revoked)
    renewed = strake.rotate(rotated)
    strake.call("delete", subdomain=deleted.subdomain)
    strake.call("delete_account", email="erased@example.org")
    trail.write_text("\n".join(strake.call("audit_trail")["lines"]))

    in_use = strake.call("command", arguments=["restore", str(backup), "--overwrite"])
    assert "Stop it first" in in_use["failed"]
    assert strake.stop() == 0
    kind = "sqlite" if database == "sqlite" else "postgresql"
    for half in ("proxy", "web"):
        lines = [line for line in strake.log().splitlines() if f" half={half} version=" in line]
        assert [line.partition(" INFO ")[2].split()[1] for line in lines] == ["start", "stop"]
        assert f" database={kind} workers=1" in lines[0]
    assert f" bind=127.0.0.1:{strake.port}," in strake.log()
    assert "not empty" in strake.call("command", arguments=["restore", str(backup)])["failed"]
    assert "can be restored" in succeeds(strake, "restore", str(backup), "--overwrite", "--dry-run")
    assert "Before you start" in succeeds(strake, "restore", str(backup), "--overwrite")
    assert "4 ended again" in succeeds(strake, "after_restore", "--events", str(trail))
    assert "all open" in succeeds(strake, "verify_vault")

    strake.start()
    assert status(strake, kept) == 200
    assert [status(strake, one) for one in (revoked, rotated, renewed)] == [401, 401, 401]
    assert [status(strake, one) for one in (deleted, erased)] == [410, 410]
    if database == "postgresql":
        arguments = (tmp_path / "arguments").read_text()
        assert "--snapshot=" in arguments
        assert PASSWORD not in arguments


def rights(database: Database) -> list[dict[str, str]]:
    return [database.granted(role) for role in (database.web, database.proxy)]


@pytest.mark.postgres
@pytest.mark.redis
def test_both_halves_start_after_a_restore(
    postgres_cluster: Cluster, redis_url: str, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.default = fixed(200, body=b"{}")
    backup = tmp_path / "strake.backup"
    with migrated(postgres_cluster, tmp_path / "old") as old, empty(old, tmp_path / "new") as new:
        endpoint = old.strake.connect(upstream.url)
        old.grant()
        succeeds(old.strake, "backup", str(backup))
        assert "grant_roles" in succeeds(new.strake, "restore", str(backup))
        assert new.open_functions() == []
        new.grant()
        assert rights(new) == rights(old)
        with both_halves(new, tmp_path, redis_url) as proxy:
            assert status(proxy, endpoint) == 200


@pytest.mark.postgres
def test_dump_without_rights_gets_them_from_grant_roles(postgres_cluster: Cluster, tmp_path: Path) -> None:
    """An operator may copy a database with PostgreSQL's own programs."""
    with migrated(postgres_cluster, tmp_path / "old") as old, empty(old, tmp_path / "new") as new:
        old.grant()
        urls = [database.strake.environment["DATABASE_URL"] for database in (old, new)]
        dump = ["pg_dump", "--no-owner", "--no-privileges", "--dbname", urls[0]]
        text = subprocess.run(dump, capture_output=True, timeout=120, check=True).stdout
        psql = ["psql", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", urls[1]]
        subprocess.run(psql, input=text, stdout=subprocess.DEVNULL, timeout=120, check=True)
        assert new.open_functions() != []
        new.grant()
        assert new.open_functions() == []
        assert rights(new) == rights(old)


def recording_programs(folder: Path) -> str:
    """PATH with programs of PostgreSQL that write down their arguments first."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("pg_dump", "pg_restore", "psql"):
        program = programs / name
        program.write_text(
            f'#!/bin/sh\necho "$0 $*" >>{folder}/arguments\nPATH={os.environ["PATH"]} exec {name} "$@"\n'
        )
        program.chmod(0o755)
    return f"{programs}:{os.environ['PATH']}"
