"""`manage.py doctor` says what is wrong with what Strake depends on, in the server's own words and without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from django.core.management import call_command
from django.db import connection

from accounts.models import AuditEvent
from credentials.egress_tls import read_certificates
from strake.database_url import database_config
from strake.doctor import database, examination, front, services
from strake.env import email_config
from strake.health import work
from strake.health.findings import BAD, GOOD, SKIPPED, WARN, Finding
from tests.accounts.smtp import SmtpServer
from tests.support.certificates import Authority
from tests.support.postgres import PASSWORD, Cluster
from tests.support.running import Strake
from tests.support.services import free_port
from tests.test_commands import SECRET


def states(findings: Iterator[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


def only(findings: Iterator[Finding]) -> Finding:
    [finding] = findings
    return finding


# --- The database ----------------------------------------------------------------------------------------------------


class Other:
    """In the place of Django's connection: the database of another URL."""

    def __init__(self, url: str) -> None:
        self._config = database_config(url)

    def copy(self) -> Any:
        from django.db.backends.postgresql.base import DatabaseWrapper

        defaults = {**connection.settings_dict, **self._config, "CONN_HEALTH_CHECKS": False}
        return DatabaseWrapper({**defaults, "OPTIONS": {**self._config["OPTIONS"]}}, "other")


def look_at(url: str, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    monkeypatch.setattr(database, "connection", Other(url))
    return list(database.look())


@pytest.mark.django_db
def test_sqlite_is_described() -> None:
    assert states(database.look()) == {"Database": GOOD, "Migrations": GOOD}


@pytest.mark.postgres
@pytest.mark.django_db
def test_postgresql_without_tables(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {finding.name: finding for finding in look_at(postgres_url, monkeypatch)}
    assert found["Database"].state == found["Database role"].state == GOOD
    assert "TLSv1.3" in found["Database"].words
    assert found["Migrations"].state == BAD
    assert "manage.py migrate" in found["Migrations"].words


@pytest.mark.postgres
@pytest.mark.django_db
def test_reasons_of_postgresql_are_passed_on(postgres_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {
        postgres_cluster.url_of("missing"): 'database "missing" does not exist',
        postgres_cluster.url_of("strake", "nobody"): 'password authentication failed for user "nobody"',
        f"postgres://strake:{SECRET}@127.0.0.1:{free_port()}/strake": "Connection refused",
    }
    for url, reason in reasons.items():
        [finding] = look_at(url, monkeypatch)
        assert finding.state == BAD
        assert reason in finding.words
        assert PASSWORD not in finding.words
        assert SECRET not in finding.words


@pytest.mark.postgres
def test_too_few_connections_are_reported(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, settings: Any, db: None
) -> None:
    settings.WEB_CONCURRENCY = 200
    assert {finding.name: finding.state for finding in look_at(postgres_url, monkeypatch)}["Connections"] == WARN


@pytest.mark.postgres
@pytest.mark.django_db
def test_what_only_the_proxy_half_meets_is_reported(
    postgres_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq ignores a list of revoked certificates that it cannot use."""
    damaged = tmp_path / "crl.pem"
    damaged.write_text("damaged")
    url = f"{postgres_cluster.url}?sslmode=verify-full&sslrootcert={postgres_cluster.certificate}"
    monkeypatch.setattr(database, "connection", Other(url).copy())
    assert list(database.look_as_proxy()) == []
    url += f"&sslcrl={damaged}"
    assert look_at(url, monkeypatch)[0].state == GOOD
    monkeypatch.setattr(database, "connection", Other(url).copy())
    finding = only(database.look_as_proxy())
    assert finding.state == BAD
    assert "the proxy half cannot connect: SSLError: " in finding.words


# --- Services --------------------------------------------------------------------------------------------------------


@pytest.mark.redis
def test_redis_that_may_lose_sessions(redis_url: str, settings: Any) -> None:
    settings.REDIS_URL = redis_url
    assert states(services.look_at_redis()) == {"Redis": GOOD, "Clock": GOOD}
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
    finding, _ = services.look_at_redis()
    assert finding.state == WARN
    assert "noeviction" in finding.words
    assert "appendonly" in finding.words


@pytest.mark.parametrize(
    "url", [f"redis://:{SECRET}@127.0.0.1:1/0", f"https://:{SECRET}@redis/0", f"redis://:{SECRET}@h:x"]
)
def test_redis_that_cannot_be_used(url: str, settings: Any) -> None:
    settings.REDIS_URL = url
    finding = only(services.look_at_redis())
    assert finding.state == BAD
    assert SECRET not in finding.words


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    server = SmtpServer()
    server.start()
    yield server
    server.listener.close()


def configure_mail(settings: Any, url: str) -> None:
    for name, value in email_config(url).items():
        setattr(settings, name, value)


def test_mail_server_that_accepts_the_sender(smtp: SmtpServer, settings: Any) -> None:
    configure_mail(settings, f"smtp://127.0.0.1:{smtp.port}")
    assert only(services.look_at_mail()).state == GOOD
    assert smtp.messages == []


def test_mail_server_that_refuses_the_sender(smtp: SmtpServer, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    configure_mail(settings, f"smtp://127.0.0.1:{smtp.port}")
    monkeypatch.setattr("smtplib.SMTP.mail", lambda *_: (553, b"5.7.1 sender not owned\r\n"))
    finding = only(services.look_at_mail())
    assert finding.state == BAD
    assert "553 5.7.1 sender not owned" in finding.words


def test_mail_server_that_cannot_be_reached(settings: Any) -> None:
    configure_mail(settings, f"smtp://user:{SECRET}@127.0.0.1:{free_port()}")
    finding = only(services.look_at_mail())
    assert finding.state == BAD
    assert "refused" in finding.words
    assert SECRET not in finding.words


def test_mail_of_the_web_half_is_not_asked_by_other_commands(settings: Any) -> None:
    assert only(services.look_at_mail()).state == GOOD
    settings.STRAKE_EMBEDDED = settings.STRAKE_LOOPBACK = False
    finding = only(services.look_at_mail())
    assert finding.state == SKIPPED
    assert "EMAIL_URL is not set here" in finding.words


def test_clock_that_differs_is_reported() -> None:
    import time

    assert [services._clock("x", time.time() - skew).state for skew in (0, 10, -100)] == [GOOD, WARN, BAD]


# --- The way in ------------------------------------------------------------------------------------------------------


def test_public_address_reaches_strake(strake: Strake, settings: Any) -> None:
    settings.STRAKE_BASE_URL = strake.url
    assert states(front.look()) == {"Public address": GOOD, "Client addresses": GOOD}


def test_forged_and_hidden_client_addresses_are_reported(settings: Any) -> None:
    settings.STRAKE_BASE = urlsplit("https://strake.example.org")
    seen = (front.FORGED, "127.0.0.1", "-", "10.0.0.7")
    assert [front._clients(one, is_this_host=False).state for one in seen] == [BAD, WARN, WARN, GOOD]
    assert "clients could forge" in front._clients("127.0.0.1", is_this_host=False).words
    settings.STRAKE_TRUSTED_PROXIES = 1
    assert front._clients("10.0.0.7", is_this_host=False).words.endswith("for 10.0.0.7, behind 1 proxy")


class Ready(BaseHTTPRequestHandler):
    """`/readyz` behind a reverse proxy on this machine."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("x-strake-client", self.server.client or self.headers["X-Forwarded-For"])  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def reverse_proxy(
    settings: Any, authority: Authority, *, client: str = "127.0.0.1", **certificate: Any
) -> Iterator[None]:
    """The public address, with a certificate of `authority`. Strake takes us for `client`, or for who we say we are."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        server.client = client  # type: ignore[attr-defined]
        tls = authority.server("localhost", **certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        settings.STRAKE_BASE_URL = f"https://localhost:{server.server_port}"
        settings.STRAKE_BASE = urlsplit(settings.STRAKE_BASE_URL)
        try:
            yield
        finally:
            server.shutdown()


def test_private_authorities_are_trusted(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    with reverse_proxy(settings, authority):
        finding = only(front.look())
        assert finding.state == BAD
        assert "unable to get local issuer certificate" in finding.words
        assert "STRAKE_CA_FILE" in finding.words
        with monkeypatch.context() as system:
            system.setenv("SSL_CERT_FILE", str(authority.path))
            assert states(front.look())["Public address"] == GOOD
        settings.STRAKE_CA_CERTIFICATES = read_certificates(str(authority.path))
        assert states(front.look())["Public address"] == GOOD


def test_certificate_that_has_expired(settings: Any, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    settings.STRAKE_CA_CERTIFICATES = read_certificates(str(authority.path))
    with reverse_proxy(settings, authority, expired=True):
        words = only(front.look()).words
    assert "certificate has expired. Correct the certificate" in words
    assert "STRAKE_CA_FILE" not in words


def test_client_address_cannot_be_told_on_the_host_itself(settings: Any, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    settings.STRAKE_CA_CERTIFICATES = read_certificates(str(authority.path))
    with reverse_proxy(settings, authority):
        finding = {finding.name: finding for finding in front.look()}["Client addresses"]
    assert finding.state == SKIPPED
    assert "STRAKE_TRUSTED_PROXIES" not in finding.words
    assert f"curl -sI {settings.STRAKE_BASE_URL}/readyz" in finding.words
    with reverse_proxy(settings, authority, client=""):
        assert states(front.look())["Client addresses"] == BAD


def test_address_that_leads_elsewhere(upstream: Any, settings: Any) -> None:
    settings.STRAKE_BASE_URL = upstream.url
    assert "something else" in only(front.look()).words
    settings.STRAKE_BASE_URL = f"http://127.0.0.1:{free_port()}"
    assert "refused" in only(front.look()).words


# --- The command -----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_command_prints_a_line_each_and_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, code in (([GOOD], 0), ([GOOD, SKIPPED], 0), ([GOOD, WARN], 1), ([WARN, BAD], 78)):
        findings = [Finding(f"part {number}", state, "words") for number, state in enumerate(found)]
        monkeypatch.setattr(examination, "examine", lambda findings=findings: iter(findings))
        for arguments in ([], ["--json"]):
            out, exited = StringIO(), 0
            try:
                call_command("doctor", *arguments, stdout=out)
            except SystemExit as exit_:
                exited = int(str(exit_.code))
            assert exited == code
            if arguments:
                assert json.loads(out.getvalue())["exit_code"] == code
            else:
                assert len(out.getvalue().splitlines()) == len(findings) + 1


@pytest.mark.django_db
def test_everything_is_examined() -> None:
    assert work.last_backup().state == WARN
    AuditEvent.objects.create(action="database.backed_up", subject_type="database", subject_id="x")
    found = {finding.name: finding for finding in examination.examine()}
    assert set(found) == {
        *("Database", "Migrations", "Mail", "Names", "Public address", "Disk", "Clock", "Servers", "Last backup")
    }
    assert found["Last backup"].state == GOOD
    assert "UTC" in found["Last backup"].words
