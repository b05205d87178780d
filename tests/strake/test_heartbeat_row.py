"""The row of a server process: there as long as it may open keys, so that a key rotation waits for it and no longer."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.support.raw import connected, get, read_head
from tests.support.running import Strake
from tests.support.upstream import Upstream, endless, eventually

PROCESSES = """
import json
from credentials.vault import heartbeats
rows = heartbeats.running()
print(json.dumps(sorted((row.kind, int(row.name.rpartition(":")[2])) for row in rows)))
"""


def server_processes(strake: Strake) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(strake.home / "data/strake.sqlite3")) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM credentials_serverprocess WHERE kind = 'proxy'")]


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_every_worker_has_a_row_until_it_stops(
    database: str, run_strake: Callable[..., Strake], request: pytest.FixtureRequest
) -> None:
    environment = {}
    if database == "postgresql":
        environment = {"WEB_CONCURRENCY": "2", "DATABASE_URL": request.getfixturevalue("migrated_url")}
    strake = run_strake(**environment)
    proxies, pages = sorted(strake.workers), sorted(strake.web_workers)
    rows = [["proxy", process_id] for process_id in proxies] + [["web", process_id] for process_id in pages]
    assert json.loads(strake.python(PROCESSES)) == rows
    assert strake.stop() == 0
    assert json.loads(strake.python(PROCESSES)) == []
    assert "heartbeat_failed" not in strake.log()


def test_worker_that_finishes_streams_keeps_its_row(run_strake: Callable[..., Strake], upstream: Upstream) -> None:
    """It still opens keys for requests on open connections, so a rotation waits until it has loaded the new key."""
    strake = run_strake()
    endpoint = strake.connect(upstream.url)
    upstream.on("/x", endless(b"data: 1\n\n", every=0.05))
    with connected(strake.address) as stream:
        stream.sendall(get(endpoint))
        read_head(stream)
        os.kill(strake.pid, signal.SIGTERM)
        eventually(lambda: refuses_connections(strake), what="it stops accepting")
        [before] = server_processes(strake)
        strake.manage("create_master_key", check=True)
        row = eventually(lambda: with_two_keys(strake), what="it loads the new key")
        assert row["id"] == before["id"]
        assert list(json.loads(row["in_flight"]).values()) == [1]
        assert row["in_flight_total"] == 1
    assert strake.stop() == 0
    assert server_processes(strake) == []


def with_two_keys(strake: Strake) -> dict[str, Any] | None:
    return next((row for row in server_processes(strake) if len(json.loads(row["key_ids"])) == 2), None)


def refuses_connections(strake: Strake) -> bool:
    try:
        with connected(strake.address):
            return False
    except ConnectionRefusedError:
        return True
