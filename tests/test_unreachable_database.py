"""A database that cannot be used is one line with the server's own reason, from every command, and no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.postgres import PASSWORD, Cluster
from tests.support.services import free_port
from tests.test_commands import EX_CONFIG, assert_one_clear_line, manage

EX_TEMPFAIL = 75


@pytest.mark.parametrize("command", [["migrate"], ["signin_link", "a@example.org"]], ids=lambda words: words[0])
@pytest.mark.postgres
def test_missing_database(command: list[str], postgres_cluster: Cluster, tmp_path: Path) -> None:
    result = manage(tmp_path / "home", *command, DATABASE_URL=postgres_cluster.url_of("missing"))
    assert_one_clear_line(result, 'database "missing" does not exist')
    assert result.code == EX_CONFIG
    assert PASSWORD not in result.err


def test_server_that_does_not_run(tmp_path: Path) -> None:
    url = f"postgres://strake:secret@127.0.0.1:{free_port()}/strake"
    result = manage(tmp_path / "home", "prune", DATABASE_URL=url)
    assert_one_clear_line(result, "Connection refused")
    assert result.code == EX_TEMPFAIL
    assert "secret@" not in result.err


@pytest.mark.postgres
def test_database_that_was_not_migrated(postgres_url: str, tmp_path: Path) -> None:
    result = manage(tmp_path / "home", "prune", DATABASE_URL=postgres_url)
    assert_one_clear_line(result, "does not exist")
