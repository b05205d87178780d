"""Strake in each configuration that is measured: embedded, deployed on PostgreSQL and Redis, and at another commit.

Each is set up once, in a temporary folder, and started anew for every round.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from bench.gateways import Gateway, Starter, Target
from bench.processes import ON_GATEWAY_CORE, PEERS, ROOT, run, running
from credentials.vault.keyring import new_document
from tests.support.running import Strake
from tests.support.services import free_port, wait_for_port

ENDPOINTS = 3
EVERY_LIMIT = (
    *("--requests-per-minute", "1000000", "--expires-in-days", "1", "--allow-network", "127.0.0.0/8"),
    *("--allow-path", "POST /v1/**", "--allow-path", "GET /v1/models"),
)


@contextmanager
def embedded(upstream: str, streams: int, tokens: int = 0) -> Iterator[Starter]:
    """Strake with its defaults: SQLite, no Redis. `tokens` is the number of additional tokens in its database."""
    with tempfile.TemporaryDirectory(prefix="strake-bench-") as folder:
        strake = _strake(Path(folder), streams)
        start = _prepare("strake", strake, upstream)
        if tokens:
            strake.python(f"from bench.tokens import fill; fill({tokens})")
        yield start


@contextmanager
def deployed(upstream: str, streams: int, server: str) -> Iterator[Starter]:
    """Strake as it runs for other people, on PostgreSQL and Redis. Its tokens have every kind of limit.

    `server` is the URL of a database whose role may create databases. The new database is dropped at the end.
    """
    name = f"strake_bench_{secrets.token_hex(6)}"
    redis_port = free_port()
    redis_options = ["--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with (
        tempfile.TemporaryDirectory(prefix="strake-bench-") as folder,
        psycopg.connect(server, autocommit=True) as connection,
        running("redis", ["redis-server", *redis_options]) as redis,
    ):
        wait_for_port(redis_port)
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

        def stores() -> list[int]:
            serving = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
            return [redis, *(pid for (pid,) in connection.execute(serving, [name]).fetchall())]

        environment = {
            "STRAKE_BASE_URL": "https://strake.example.org",
            "STRAKE_SECRET_KEY": secrets.token_urlsafe(50),
            "STRAKE_MASTER_KEYS": new_document(),
            "STRAKE_DRAIN_SECONDS": "0",
            "DATABASE_URL": urlsplit(server)._replace(path=f"/{name}").geturl(),
            "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            "EMAIL_URL": "smtp://127.0.0.1:1",
        }
        try:
            strake = _strake(Path(folder), streams, environment)
            yield _prepare("strake-pg", strake, upstream, EVERY_LIMIT, stores)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def at_commit(upstream: str, streams: int, commit: str) -> Iterator[Starter]:
    """Another commit with its defaults. Packages that it pins otherwise are installed into `bench/.peers`."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="strake-bench-") as folder:
        root = Path(folder, "code")
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extraction_filter = getattr(tarfile, "data_filter", None)  # since 3.11.4, and Debian 12 has 3.11.2
            files.extractall(root)
        requirements = root / "requirements.txt"
        environment = {}
        if requirements.read_bytes() != (ROOT / "requirements.txt").read_bytes():
            packages = PEERS / f"strake-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
            if not packages.exists():
                wheels = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--quiet"]
                install = [sys.executable, "-m", "pip", "install", *wheels, "--target", str(packages)]
                run([*install, "-r", str(requirements)])
            environment["PYTHONPATH"] = str(packages)
        yield _prepare(commit, _strake(Path(folder), streams, environment, root), upstream)


def _strake(folder: Path, streams: int, environment: Mapping[str, str] | None = None, root: Path = ROOT) -> Strake:
    common = {"WEB_CONCURRENCY": "1", "STRAKE_MAX_STREAMS": str(max(2000, streams))}
    return Strake(folder / "home", common | dict(environment or {}), prefix=ON_GATEWAY_CORE, root=root)


def _prepare(
    name: str, strake: Strake, upstream: str, limits: Sequence[str] = (), stores: Callable[[], list[int]] = list
) -> Starter:
    """Migrate, and connect the endpoints. With `limits`, they are called with tokens that have them."""
    strake.manage("migrate", "-v0", check=True)
    targets = []
    for number in range(ENDPOINTS):
        connect = ["connect", "--email", "bench@example.org", "--provider", "custom", "--destination", upstream]
        connect += ["--label", f"Endpoint {number}", "--key-stdin", "--json"]
        made = json.loads(strake.manage(*connect, stdin="sk-bench-0123456789abcdef", check=True).stdout)
        token = made["token"]
        if limits:
            issued = strake.manage("issue_token", made["subdomain"], "--json", *limits, check=True)
            token = json.loads(issued.stdout)["token"]
        # By number, since clients try "localhost" over IPv6 first.
        url = f"{strake.url}{urlsplit(made['url']).path}"
        targets.append(Target(url, {"authorization": f"Bearer {token}"}))

    @contextmanager
    def start() -> Iterator[Gateway]:
        with strake:
            yield Gateway(name, targets, strake.pid, stores)

    return start
