"""A PostgreSQL that restarts, only reads, or is gone without a word delays the request log and loses nothing."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from django.db.backends.postgresql.base import DatabaseWrapper

from strake.database_url import database_config
from tests.support.postgres import SUPERUSER, Cluster
from tests.support.running import ROOT, Strake
from tests.support.upstream import eventually

pytestmark = pytest.mark.postgres

# Adds entries until standard input closes, and then stops, as a proxy process does.
LOG = """
import django; django.setup()
import asyncio, json, sys, time
from uuid import uuid4
from proxy.request_log.recorder import RequestLog
from proxy.request_log.writer import Entry

async def main():
    log, endpoint, added, longest = RequestLog(), uuid4(), 0, 0.0
    log.start()
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    while not ended.done():
        log.add(Entry(endpoint, "ctok_a", 200, added, 1, time.time()))
        added += 1
        longest = max(longest, log.lag_seconds)
        await asyncio.sleep(0.01)
    await log.stop()
    print(json.dumps({"added": added, "lost": log.lost, "lag": longest}))

asyncio.run(main())
"""


class Log:
    """The request log of one process."""

    def __init__(self, url: str) -> None:
        self._url = url

    def written(self) -> int:
        with psycopg.connect(self._url) as connection:
            row = connection.execute("SELECT count(*) FROM proxy_requestrecord").fetchone()
        return int(row[0]) if row else 0

    def goes_on(self) -> None:
        """Wait until entries from now on are written."""
        before = self.written()
        eventually(lambda: self.written() > before + 100, 120)

    @contextmanager
    def running(self, strake: Strake, url: str) -> Iterator[dict[str, Any]]:
        """A process with the log. The dictionary has its report after the block."""
        report: dict[str, Any] = {}
        process = subprocess.Popen(
            [sys.executable, "-c", LOG],
            cwd=ROOT,
            env=strake.environment | {"DATABASE_URL": url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield report
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            report.update(json.loads(out), log=err)
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def strake(migrated_url: str, migrated_home: Path) -> Strake:
    """A Strake that is not running, with a migrated database."""
    return Strake(migrated_home, {"DATABASE_URL": migrated_url})


def test_failover_to_a_server_that_only_reads(strake: Strake, migrated_url: str, postgres_cluster: Cluster) -> None:
    """The connections end with 57P01, and the next ones lead to a server that refuses to write (25006), and stay there.

    So the log must connect anew to reach the one that writes.
    """
    name = migrated_url.rpartition("/")[2]
    log = Log(migrated_url)
    with (
        psycopg.connect(postgres_cluster.url_of("postgres", SUPERUSER), autocommit=True) as superuser,
        log.running(strake, migrated_url) as report,
    ):
        log.goes_on()
        superuser.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        time.sleep(3)  # several tries
        superuser.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
        log.goes_on()
    assert report["lost"] == 0
    assert report["added"] == log.written()
    assert "request_log_not_written" in report["log"]
    assert "request_log_batch_refused" not in report["log"]


def test_server_gone_without_a_word(strake: Strake, migrated_url: str) -> None:
    """What carries the connections holds them open and passes nothing on. New ones reach a server."""
    log = Log(migrated_url)
    parts = urlsplit(migrated_url)
    assert parts.port is not None
    with SilentRelay(("127.0.0.1", parts.port)) as relay:
        through = parts._replace(netloc=parts.netloc.replace(str(parts.port), str(relay.port)))
        with log.running(strake, urlunsplit(through)) as report:
            log.goes_on()
            relay.silence()
            log.goes_on()
    assert report["lost"] == 0
    assert report["added"] == log.written()
    assert 5 < report["lag"] < 30


class SilentRelay:
    """Relays connections to a server until `silence`, which leaves those of that moment open and forgets them."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._peers: dict[socket.socket, socket.socket] = {}
        self._forgotten: list[socket.socket] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> SilentRelay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(10)
        for one in (self._listening, *self._peers, *self._forgotten):
            one.close()

    def silence(self) -> None:
        with self._lock:
            self._forgotten += self._peers
            self._peers.clear()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                readable, _, _ = select.select([self._listening, *self._peers], [], [], 0.02)
                for one in readable:
                    self._accept() if one is self._listening else self._relay(one)

    def _accept(self) -> None:
        client, server = self._listening.accept()[0], socket.create_connection(self._server)
        self._peers[client], self._peers[server] = server, client

    def _relay(self, one: socket.socket) -> None:
        peer = self._peers.get(one)
        if peer is None:
            return  # closed by the other side a moment ago
        try:
            data = one.recv(65536)
            peer.sendall(data)
        except OSError:
            data = b""
        if not data:
            for closed in (one, peer):
                del self._peers[closed]
                closed.close()


def test_every_connection_has_deadlines(migrated_url: str) -> None:
    """The kernel ends a connection whose peer has vanished, also one that waits for an answer."""
    config = {**database_config(migrated_url), "TIME_ZONE": None, "CONN_HEALTH_CHECKS": False}
    parameters = DatabaseWrapper(config).get_connection_params()
    parameters.pop("cursor_factory", None)
    parameters.pop("context", None)
    with psycopg.connect(**parameters) as connection, socket.socket(fileno=os.dup(connection.fileno())) as tcp:

        def option(name: int) -> int:
            return tcp.getsockopt(socket.IPPROTO_TCP, name)

        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, interval, count = (option(name) for name in KEEPALIVE)
        assert idle + interval * count < 20
        assert 0 < option(socket.TCP_USER_TIMEOUT) < 20_000


KEEPALIVE = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
