"""What every test stands on: an environment of its own, the cast, and the services of this machine.

This file runs before Django reads its settings, so the settings module is named here and not in pyproject.toml.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

# A developer's own configuration must neither steer the tests nor be touched by them.
STRAKE_VARIABLES = ("DATABASE_URL", "REDIS_URL", "EMAIL_URL", "PORT", "WEB_CONCURRENCY")
REQUIRE_SERVICES = os.environ.get("STRAKE_REQUIRE_SERVICES", "") == "1"
POSTGRES_URL = os.environ.get("STRAKE_TEST_POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres")

_OUTER = {name: os.environ[name] for name in os.environ if name.startswith("STRAKE_") or name in STRAKE_VARIABLES}
for _name in _OUTER:
    del os.environ[_name]
HOME = Path(tempfile.mkdtemp(prefix="strake-tests-"))
os.environ["STRAKE_HOME"] = str(HOME)
os.environ["DJANGO_SETTINGS_MODULE"] = "strake.settings"

import django  # noqa: E402

django.setup()  # the imports below reach models

import hypothesis  # noqa: E402
import psycopg  # noqa: E402
import pytest  # noqa: E402
from django.core.cache import cache  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import TransactionTestCase  # noqa: E402
from psycopg import sql  # noqa: E402

from accounts import append_only, background  # noqa: E402
from accounts.background import BackgroundQueue  # noqa: E402
from accounts.models import User  # noqa: E402
from tests import factories  # noqa: E402
from tests.running import Endpoint, Strake  # noqa: E402
from tests.upstream import Upstream, fixed  # noqa: E402

# The same examples in every run: a failure in CI is a failure here. No deadline: the machine may be busy.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("ci")


_empty_all_tables = TransactionTestCase._fixture_teardown


def _empty_all_tables_but_for_triggers(case: TransactionTestCase) -> None:
    """A test with real transactions is cleaned up by emptying every table, which the audit trail's triggers refuse."""
    append_only.remove(connection)
    _empty_all_tables(case)
    append_only.install(connection)


TransactionTestCase._fixture_teardown = _empty_all_tables_but_for_triggers


# --- Services ------------------------------------------------------------------------------------------------------


def _postgres_missing() -> str:
    try:
        psycopg.connect(POSTGRES_URL, connect_timeout=2, autocommit=True).close()
    except psycopg.OperationalError:
        parts = urlsplit(POSTGRES_URL)
        return f"no PostgreSQL answers at {parts.hostname}:{parts.port}"
    return ""


def _redis_missing() -> str:
    return "" if shutil.which("redis-server") else "redis-server is not installed"


def _browser_missing() -> str:
    return "" if shutil.which("chromium") else "chromium is not installed"


def _npm_missing() -> str:
    return "" if shutil.which("npm") else "npm is not installed"


SERVICES = {
    "postgres": _postgres_missing,
    "redis": _redis_missing,
    "browser": _browser_missing,
    "npm": _npm_missing,
}
MISSING = pytest.StashKey[dict[str, str]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Find out which services the collected tests need and this machine lacks; skip, unless they are required."""
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
    """Name every test that did not run: a number alone is easily overlooked."""
    skipped = terminalreporter.getreports("skipped")
    if not skipped:
        return
    terminalreporter.section("not run here")
    for report in sorted(skipped, key=lambda report: report.nodeid):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "no reason given"
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Processes that share the tests start as this one did: each makes an environment of its own."""
    del os.environ["STRAKE_HOME"], os.environ["DJANGO_SETTINGS_MODULE"]
    os.environ.update(_OUTER)


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database, dropped afterwards."""
    name = f"strake_test_{secrets.token_hex(6)}"
    with psycopg.connect(POSTGRES_URL, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield urlunsplit(urlsplit(POSTGRES_URL)._replace(path=f"/{name}"))
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis server of this test's own, so that it can be filled, flushed and stopped at will."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(tmp_path)]
    process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


class OwnRedis:
    """A Redis server of one test, which can be stopped and started again with what it held."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "always"]
        self.process = subprocess.Popen(
            ["redis-server", *options, "--save", "", "--dir", str(self.folder)], stdout=subprocess.DEVNULL
        )
        wait_for_port(self.port)

    def stop(self) -> None:
        """Kill it, as an outage would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@pytest.fixture
def redis(tmp_path: Path, settings: Any) -> Iterator[OwnRedis]:
    """The session and limit store of a real installation."""
    server = OwnRedis(tmp_path)
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
    settings.SESSION_ENGINE = "accounts.session_cache"
    yield server
    if server.process is not None:
        cache.clear()
    del settings.CACHES
    server.stop()


@pytest.fixture(scope="session")
def strake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strake]:
    """A running Strake on SQLite that all tests share. Connect endpoints of your own to it."""
    with Strake(tmp_path_factory.mktemp("running") / "strake") as running:
        yield running


@pytest.fixture
def run_strake(tmp_path: Path) -> Iterator[Callable[..., Strake]]:
    """`run_strake(DATABASE_URL=…)` starts a Strake of the test's own with further variables of the environment."""
    with ExitStack() as stack:
        numbers = itertools.count(1)
        yield lambda **environment: stack.enter_context(Strake(tmp_path / f"strake-{next(numbers)}", environment))


@pytest.fixture(scope="session")
def _upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def upstream(_upstream: Upstream) -> Iterator[Upstream]:
    """A scriptable provider on loopback, without scripts and records of other tests."""
    _upstream.clear()
    yield _upstream
    _upstream.clear()


@pytest.fixture
def tls_upstream(tmp_path: Path) -> Iterator[tuple[Upstream, Path]]:
    """An upstream that speaks TLS, and the certificate to trust."""
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
    """An endpoint of the shared Strake in front of `upstream`; the key goes out as `Authorization: Bearer`."""
    return strake.connect(upstream.url)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, seconds: float = 20) -> None:
    """Return once something listens on a loopback port. Raises `TimeoutError`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on 127.0.0.1:{port} after {seconds} s")


# --- The cast ------------------------------------------------------------------------------------------------------


@pytest.fixture
def alice(db: None) -> User:
    """The owner of whatever a test is about."""
    return factories.make_user("alice@example.org")


@pytest.fixture
def bob(db: None) -> User:
    """Somebody else who uses Strake, with things of his own."""
    return factories.make_user("bob@example.org")


@pytest.fixture
def charlie(db: None) -> User:
    """A stranger: signed in, owner of nothing, curious."""
    return factories.make_user("charlie@example.org")


@pytest.fixture(autouse=True)
def held_queue(monkeypatch: pytest.MonkeyPatch) -> BackgroundQueue:
    """Background work waits until a test calls `run_due`: a thread would write beside the test's own transaction."""
    queue = BackgroundQueue(retry_seconds=())
    monkeypatch.setattr(queue, "_start", lambda: None)
    monkeypatch.setattr(background, "queue", queue)
    return queue


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    """Limits and sessions of one test are not those of the next."""
    yield
    cache.clear()
