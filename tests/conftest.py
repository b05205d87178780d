"""Fixtures for every test: a clean environment, people, and services.

This file runs before Django reads its settings, so it names the settings module instead of pyproject.toml.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

# The developer's configuration must not affect the tests, and they must not touch it.
STRAKE_VARIABLES = ("DATABASE_URL", "REDIS_URL", "EMAIL_URL", "PORT", "WEB_CONCURRENCY")
REQUIRE_SERVICES = os.environ.get("STRAKE_REQUIRE_SERVICES", "") == "1"

_OUTER = {name: os.environ[name] for name in os.environ if name.startswith("STRAKE_") or name in STRAKE_VARIABLES}
for _name in _OUTER:
    del os.environ[_name]
# Debian installs servers such as nginx in folders that an ordinary user's PATH does not name.
os.environ["PATH"] += ":/usr/sbin:/sbin"
HOME = Path(tempfile.mkdtemp(prefix="strake-tests-"))
os.environ["STRAKE_HOME"] = str(HOME)
os.environ["DJANGO_SETTINGS_MODULE"] = "strake.settings"

import django  # noqa: E402

from credentials.vault import keyring  # noqa: E402
from strake import data_dir  # noqa: E402

data_dir.prepare(keyring.new_document)  # as manage.py does
django.setup()  # the imports below reach models

import httpx._config  # noqa: E402
import hypothesis  # noqa: E402
import psycopg  # noqa: E402
import pytest  # noqa: E402
from django.core.cache import cache  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client, TransactionTestCase  # noqa: E402
from psycopg import sql  # noqa: E402

from accounts import outbox  # noqa: E402
from accounts.database_cache import DatabaseCache  # noqa: E402
from accounts.models import User  # noqa: E402
from credentials import resolver  # noqa: E402
from proxy import audit_checkpoints  # noqa: E402
from strake.pages.static_files import StaticFiles  # noqa: E402
from tests.support import factories, fronts, machines, postgres  # noqa: E402
from tests.support.pages import FROM_LOOPBACK  # noqa: E402
from tests.support.postgres import Cluster  # noqa: E402
from tests.support.running import Endpoint, Strake, prepare_home  # noqa: E402
from tests.support.services import RedisServer  # noqa: E402
from tests.support.serving import serving_proxy  # noqa: E402
from tests.support.token_server import TokenServer  # noqa: E402
from tests.support.upstream import Upstream, fixed  # noqa: E402

# The same examples in every run, so that failures in CI can be repeated. No deadline, since the machine may be busy.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("ci")

# By default, httpx gives up after five seconds.
_patience = httpx._config.DEFAULT_TIMEOUT_CONFIG
_patience.connect = _patience.read = _patience.write = _patience.pool = 60


_empty_all_tables = TransactionTestCase._fixture_teardown  # type: ignore[attr-defined]


def _empty_all_tables_despite_triggers(case: TransactionTestCase) -> None:
    """Drop the audit log's triggers while a test with real transactions empties every table: they refuse DELETE."""
    with connection.cursor() as cursor:
        triggers = cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            cursor.execute(f"DROP TRIGGER {name}")
        try:
            _empty_all_tables(case)
        finally:
            for _, statement in triggers:
                cursor.execute(statement)


TransactionTestCase._fixture_teardown = _empty_all_tables_despite_triggers  # type: ignore[attr-defined]


# Each test client has middleware of its own, which would look at a hundred files.
_find_static_files = StaticFiles.add_files_from_finders
_static_files: dict[str, Any] = {}


def _find_static_files_once(middleware: StaticFiles) -> None:
    if not _static_files:
        _find_static_files(middleware)
        _static_files.update(middleware.files)
    middleware.files.update(_static_files)


StaticFiles.add_files_from_finders = _find_static_files_once  # type: ignore[assignment,method-assign]


# --- Services ------------------------------------------------------------------------------------------------------


def _postgres_missing() -> str:
    return "" if postgres.programs() else "PostgreSQL's initdb is not installed"


def _redis_missing() -> str:
    return "" if shutil.which("redis-server") else "redis-server is not installed"


def _browser_missing() -> str:
    return "" if shutil.which("chromium") else "chromium is not installed"


def _npm_missing() -> str:
    return "" if shutil.which("npm") else "npm is not installed"


def _systemd_missing() -> str:
    return "" if shutil.which("systemd-analyze") else "systemd-analyze is not installed"


def _strace_missing() -> str:
    return "" if shutil.which("strace") else "strace is not installed"


def _valgrind_missing() -> str:
    return "" if shutil.which("valgrind") else "valgrind is not installed"


def _pgbouncer_missing() -> str:
    return "" if shutil.which("pgbouncer") else "pgbouncer is not installed"


def _tinyproxy_missing() -> str:
    return "" if shutil.which("tinyproxy") else "tinyproxy is not installed"


def _curl_missing() -> str:
    return "" if shutil.which("curl") else "curl is not installed"


def _root_missing() -> str:
    return "" if os.geteuid() == 0 else "only root may look into Strake's processes"


def _namespaces_missing() -> str:
    command = ["unshare", "-Urnm", "true"]
    allowed = shutil.which("unshare") and not subprocess.run(command, capture_output=True, check=False).returncode
    return "" if allowed else "unshare is not installed, or this system allows no user namespaces"


SERVICES = {
    "nginx": lambda: fronts.missing("nginx"),
    "caddy": lambda: fronts.missing("caddy"),
    "haproxy": lambda: fronts.missing("haproxy"),
    "postgres": _postgres_missing,
    "redis": _redis_missing,
    "browser": _browser_missing,
    "npm": _npm_missing,
    "curl": _curl_missing,
    "root": _root_missing,
    "systemd": _systemd_missing,
    "strace": _strace_missing,
    "valgrind": _valgrind_missing,
    "namespaces": _namespaces_missing,
    "tinyproxy": _tinyproxy_missing,
    "pgbouncer": _pgbouncer_missing,
    "machines": machines.missing,
}
MISSING = pytest.StashKey[dict[str, str]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests whose services this machine lacks, unless STRAKE_REQUIRE_SERVICES=1."""
    needed = {name for item in items for name in SERVICES if item.get_closest_marker(name)}
    missing = {name: reason for name in sorted(needed) if (reason := SERVICES[name]())}
    config.stash[MISSING] = missing
    if REQUIRE_SERVICES:
        return
    for item in items:
        for name, reason in missing.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, reason in item.config.stash[MISSING].items():
        if item.get_closest_marker(name) and REQUIRE_SERVICES:
            pytest.fail(f"{reason}, and STRAKE_REQUIRE_SERVICES=1 demands it", pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List every skipped test, since a number is easily overlooked."""
    skipped = terminalreporter.getreports("skipped")
    if not skipped:
        return
    terminalreporter.section("skipped")
    for report in sorted(skipped, key=lambda report: report.nodeid):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "no reason given"
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Give the xdist workers the environment that this process had. Each creates its own data folder."""
    del os.environ["STRAKE_HOME"], os.environ["DJANGO_SETTINGS_MODULE"]
    os.environ.update(_OUTER)


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    """A PostgreSQL cluster with passwords and TLS, for every test of this process. Do not stop it."""
    with postgres.cluster() as running:
        yield running


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database."""
    with _new_name(postgres_cluster) as name:
        postgres_cluster.create_database(name)
        yield postgres_cluster.url_of(name)


@pytest.fixture
def migrated_url(postgres_cluster: Cluster) -> Iterator[str]:
    """The URL of a new PostgreSQL database with Strake's tables, which is much faster than to migrate an empty one."""
    with _new_name(postgres_cluster) as name:
        postgres_cluster.create_migrated(name)
        yield postgres_cluster.url_of(name)


@contextmanager
def _new_name(cluster: Cluster) -> Iterator[str]:
    """The name of a database to create.

    The next one drops it: other fixtures stop servers that use it, and those wait for a database that is gone.
    """
    if _left_databases:
        with psycopg.connect(cluster.url, autocommit=True) as connection:
            while _left_databases:
                _drop(connection, _left_databases.pop())
    name = f"strake_test_{secrets.token_hex(6)}"
    yield name
    _left_databases.append(name)


_left_databases: list[str] = []


def _drop(connection: psycopg.Connection, name: str) -> None:
    """Drop a database. While autovacuum works in it, which is no user's process, nobody but a superuser may."""
    end = time.monotonic() + 60
    while True:
        try:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        except psycopg.errors.InsufficientPrivilege:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a new Redis server."""
    server = RedisServer(tmp_path)
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def redis(tmp_path: Path, settings: Any) -> Iterator[RedisServer]:
    """A new Redis server that the settings use for sessions and limits, as in production."""
    server = RedisServer(tmp_path)
    server.start()
    settings.CACHES = {
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": server.url,
            "KEY_PREFIX": "strake",
            "OPTIONS": {
                "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
                "SOCKET_CONNECT_TIMEOUT": 2,
                "SOCKET_TIMEOUT": 2,
            },
        }
    }
    settings.SESSION_ENGINE = "accounts.sessions.cache"
    yield server
    if server.is_running:
        cache.clear()
    del settings.CACHES
    server.stop()


@pytest.fixture(scope="session")
def strake(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Strake]:
    """A running Strake on SQLite that all tests share. Connect a new endpoint for each test."""
    with Strake(prepare_home(tmp_path_factory.mktemp("running") / "strake", migrated_database)) as running:
        yield running


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database to copy: migrating one takes as long as the rest of a start."""
    home = tmp_path_factory.mktemp("migrated") / "strake"
    Strake(home).manage("migrate", "-v0", check=True)
    return home / "data/strake.sqlite3"


@pytest.fixture
def migrated_home(tmp_path: Path, migrated_database: Path) -> Path:
    """A new data folder with keys and a migrated SQLite database."""
    return prepare_home(tmp_path / "home", migrated_database)


@pytest.fixture
def run_strake(tmp_path: Path, migrated_database: Path) -> Iterator[Callable[..., Strake]]:
    """`run_strake(DATABASE_URL=…)` starts another Strake with these environment variables."""
    numbers = itertools.count(1)

    def start(**environment: str) -> Strake:
        home = tmp_path / f"strake-{next(numbers)}"
        if "DATABASE_URL" not in environment:
            prepare_home(home, migrated_database)
        return stack.enter_context(Strake(home, environment))

    with ExitStack() as stack:
        yield start


@pytest.fixture(scope="session")
def _upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def upstream(_upstream: Upstream) -> Iterator[Upstream]:
    """A scripted provider on loopback. It forgets scripts and requests between tests."""
    _upstream.clear()
    yield _upstream
    _upstream.clear()


@pytest.fixture(scope="session")
def _token_server() -> Iterator[TokenServer]:
    with TokenServer() as running:
        yield running


@pytest.fixture
def token_server(_token_server: TokenServer) -> Iterator[TokenServer]:
    """A cloud's token server on loopback. Strake asks it with tests.support.token_server_settings."""
    _token_server.clear()
    yield _token_server
    _token_server.clear()


@pytest.fixture
def tls_upstream(tmp_path: Path) -> Iterator[tuple[Upstream, Path]]:
    """An upstream with TLS, and the path of its certificate."""
    certificate, private_key = tmp_path / "certificate.pem", tmp_path / "private-key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        [*command.split(), "-keyout", str(private_key), "-out", str(certificate)], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private_key)
    with Upstream(tls=context) as running:
        running.default = fixed(200, body=b"{}")
        yield running, certificate


@pytest.fixture
def endpoint(strake: Strake, upstream: Upstream) -> Endpoint:
    """An endpoint of the shared Strake that forwards to `upstream` with `Authorization: Bearer`."""
    return strake.connect(upstream.url)


@pytest.fixture
def proxy_socket(tmp_path: Path, settings: Any, transactional_db: None) -> Iterator[Path]:
    """The socket of a proxy in this process, for the connection tests of pages."""
    settings.STRAKE_PROXY_SOCKET = tmp_path / "proxy.sock"
    with serving_proxy(settings.STRAKE_PROXY_SOCKET):
        yield settings.STRAKE_PROXY_SOCKET


# --- People --------------------------------------------------------------------------------------------------------


@pytest.fixture
def alice(db: None) -> User:
    """The owner of the endpoints in a test."""
    return factories.make_user("alice@example.org")


@pytest.fixture
def bob(db: None) -> User:
    """Another user."""
    return factories.make_user("bob@example.org")


@pytest.fixture
def charlie(db: None) -> User:
    """A user who owns nothing."""
    return factories.make_user("charlie@example.org")


@pytest.fixture(autouse=True)
def _held_outbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emails wait for `outbox.run_due`, since a thread would write outside the transaction of the test."""
    monkeypatch.setattr(outbox, "start", lambda: None)


@pytest.fixture(autouse=True)
def _unpurged_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache deletes expired entries once a minute, which would be one query more in some test."""
    monkeypatch.setattr(DatabaseCache, "_last_purge", float("inf"))


@pytest.fixture(autouse=True)
def _watched_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests change the keys more often than a process looks."""
    monkeypatch.setattr(keyring, "LOOK_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def _forgotten_names() -> None:
    """No test uses what another one has looked up."""
    resolver.shared.cache_clear()


@pytest.fixture(autouse=True)
def _forgotten_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test has seen the checkpoints of another one's audit log."""
    monkeypatch.setattr(audit_checkpoints, "_seen", {})


@pytest.fixture
def client() -> Client:
    """A browser, with the address that the proxy half sends along."""
    return Client(headers=FROM_LOOPBACK)
