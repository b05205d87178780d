"""`manage.py doctor` says what is wrong with what Strake depends on, in the server's own words and without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
import redis
from django.core.management import call_command
from django.db import connection

from accounts.models import AuditEvent
from strake.database_url import database_config
from strake.doctor import database, examination, front, services
from strake.env import email_config
from strake.health.findings import BAD, GOOD, WARN, Finding
from tests.accounts.smtp import SmtpServer
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


def test_clock_that_differs_is_reported() -> None:
    import time

    assert [services._clock("x", time.time() - skew).state for skew in (0, 10, -100)] == [GOOD, WARN, BAD]


# --- The way in ------------------------------------------------------------------------------------------------------


def test_public_address_reaches_strake(strake: Strake, settings: Any) -> None:
    settings.STRAKE_BASE_URL = strake.url
    assert states(front.look()) == {"Public address": GOOD, "Client addresses": GOOD}


def test_forged_and_hidden_client_addresses_are_reported(settings: Any) -> None:
    from urllib.parse import urlsplit

    settings.STRAKE_BASE = urlsplit("https://strake.example.org")
    assert [front._clients(seen).state for seen in (front.FORGED, "127.0.0.1", "-", "10.0.0.7")] == [
        BAD,
        WARN,
        WARN,
        GOOD,
    ]


def test_address_that_leads_elsewhere(upstream: Any, settings: Any) -> None:
    settings.STRAKE_BASE_URL = upstream.url
    assert "something else" in only(front.look()).words
    settings.STRAKE_BASE_URL = f"http://127.0.0.1:{free_port()}"
    assert "refused" in only(front.look()).words


# --- The command -----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_command_prints_a_line_each_and_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, code in (([GOOD], 0), ([GOOD, WARN], 1), ([WARN, BAD], 78)):
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
    AuditEvent.objects.create(action="database.backed_up", subject_type="database", subject_id="x")
    found = {finding.name: finding for finding in examination.examine()}
    assert set(found) == {
        *("Database", "Migrations", "Mail", "Names", "Public address", "Disk", "Clock", "Servers", "Last backup")
    }
    assert "UTC" in found["Last backup"].words
