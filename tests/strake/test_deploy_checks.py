"""`check --deploy` finds what would carry sign-in links, sessions or rows in clear."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.core.checks import run_checks
from pytest_django import Settings

from credentials.egress_proxy import parse
from credentials.vault import keyring
from strake import deploy_checks as checks
from strake.database_url import database_config
from strake.doctor import examination
from strake.env import email_config
from strake.health.findings import BAD, GOOD, WARN, Finding
from strake.processes import listen
from tests.support.running import ROOT
from tests.test_commands import DEPLOYED

Configure = Callable[..., None]


@pytest.fixture
def configure(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Give the settings what `strake/settings.py` makes of these variables."""

    def apply(**urls: str) -> None:
        database = database_config(urls["DATABASE_URL"]) if "DATABASE_URL" in urls else {"ENGINE": "sqlite3"}
        monkeypatch.setattr(checks, "connection", SimpleNamespace(settings_dict=database))
        if email := urls.get("EMAIL_URL"):
            for name, value in email_config(email).items():
                setattr(settings, name, value)
        settings.REDIS_URL = urls.get("REDIS_URL", "")
        settings.STRAKE_PLAINTEXT_HOSTS = urls.get("STRAKE_PLAINTEXT_HOSTS", "").split(",")

    return apply


def found() -> list[str]:
    messages = [*checks.check_email(None), *checks.check_redis(None), *checks.check_database(None)]
    assert all(message.hint for message in messages)
    return [str(message.id) for message in messages]


@pytest.mark.parametrize(
    ("url", "ids"),
    [
        ("smtp://user:pw@mail.example.org", ["strake.E002"]),
        ("smtp://user:pw@10.0.0.5:25", ["strake.E002"]),
        ("smtp+tls://user:pw@mail.example.org", []),
        ("smtps://user:pw@mail.example.org", []),
        ("smtp://127.0.0.1", []),
        ("smtp://localhost", []),
        ("smtp://[::1]", []),
    ],
)
def test_mail_without_tls(url: str, ids: list[str], configure: Configure) -> None:
    configure(EMAIL_URL=url)
    assert found() == ids


@pytest.mark.parametrize(
    ("url", "ids"),
    [
        ("redis://:pw@redis.example.org/0", ["strake.E003"]),
        ("redis://192.168.1.5:6379/0", ["strake.E003"]),
        ("rediss://:pw@redis.example.org/0", []),
        ("rediss://:pw@redis.example.org/0?ssl_cert_reqs=none", ["strake.W002"]),
        ("redis://127.0.0.2/0", []),
        ("redis://[::1]:6379/0", []),
        ("unix:///run/redis.sock", []),
        ("", []),
    ],
)
def test_redis_without_tls(url: str, ids: list[str], configure: Configure) -> None:
    configure(REDIS_URL=url)
    assert found() == ids


@pytest.mark.parametrize(
    ("url", "ids"),
    [
        ("postgres://a:b@db.example.org/strake", ["strake.E004"]),
        ("postgres://a:b@db.example.org/strake?sslmode=disable", ["strake.E004"]),
        ("postgres://a:b@db.example.org/strake?sslmode=allow", ["strake.E004"]),
        ("postgres://a:b@db.example.org/strake?sslmode=prefer", ["strake.E004"]),
        ("postgres://a:b@127.0.0.1,db.example.org/strake", ["strake.E004"]),
        ("postgres://a:b@db.example.org/strake?sslmode=require", ["strake.W002"]),
        ("postgres://a:b@db.example.org/strake?sslmode=verify-full", []),
        ("postgres://a:b@127.0.0.1/strake?sslmode=disable", []),
        ("postgres://a:b@[::1]/strake", []),
        ("postgres://a@/strake?host=/run/postgresql", []),
    ],
)
def test_database_without_tls(url: str, ids: list[str], configure: Configure) -> None:
    configure(DATABASE_URL=url)
    assert found() == ids


def test_operator_accepts_hosts_by_name(configure: Configure) -> None:
    urls = {
        "DATABASE_URL": "postgres://a:b@db/strake",
        "REDIS_URL": "redis://redis/0",
        "EMAIL_URL": "smtp://mail.lan",
    }
    configure(**urls)
    assert found() == ["strake.E002", "strake.E003", "strake.E004"]
    configure(**urls, STRAKE_PLAINTEXT_HOSTS="db,redis")
    assert found() == ["strake.E002"]


def test_no_message_contains_a_password(configure: Configure) -> None:
    configure(
        DATABASE_URL="postgres://a:hunter2@db.example.org/strake",
        REDIS_URL="redis://:hunter2@redis.example.org/0",
        EMAIL_URL="smtp://a:hunter2@mail.example.org",
    )
    messages = [*checks.check_email(None), *checks.check_redis(None), *checks.check_database(None)]
    assert len(messages) == 3
    assert "hunter2" not in str(messages)


def test_clients_address_and_open_ports(settings: Settings) -> None:
    settings.STRAKE_LOOPBACK, settings.STRAKE_TRUSTED_PROXIES = False, 0
    settings.STRAKE_BIND = listen.parse("0.0.0.0:8000,127.0.0.1:8001,unix:/run/x.sock", port=8000)
    assert [message.id for message in checks.check_reverse_proxy(None)] == ["strake.W003", "strake.W004"]
    settings.STRAKE_PROCESS = "web"
    assert checks.check_reverse_proxy(None) == []
    settings.STRAKE_PROCESS, settings.STRAKE_TRUSTED_PROXIES = "proxy", 1
    settings.STRAKE_BIND = listen.parse("", port=8000)
    assert checks.check_reverse_proxy(None) == []


@pytest.mark.django_db
def test_checks_are_for_deployments_only(configure: Configure, settings: Settings) -> None:
    settings.STRAKE_CHECK_SERVICES = 0
    configure(REDIS_URL="redis://redis.example.org/0")
    assert "strake.E003" not in {message.id for message in run_checks()}
    assert "strake.E003" in {message.id for message in run_checks(include_deployment_checks=True)}


def test_command_fails_with_a_line_for_each() -> None:
    environment = DEPLOYED | {
        "DATABASE_URL": "postgres://strake:pw@db.example.org/strake",
        "REDIS_URL": "redis://redis.example.org/0",
        "EMAIL_URL": "smtp://mail.example.org",
        "STRAKE_CHECK_SERVICES": "0",
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    for number in ("strake.E002", "strake.E003", "strake.E004"):
        assert f"({number})" in done.stderr
    assert "STRAKE_PLAINTEXT_HOSTS=redis.example.org" in done.stderr
    assert "strake.E010" not in done.stderr


def test_services_are_asked(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Finding("Database", GOOD, "fine"), Finding("Redis", WARN, "slow"), Finding("Mail", BAD, "refused")]
    monkeypatch.setattr(examination, "examine", lambda: iter(found))
    messages = checks.check_services(None)
    assert [(one.id, one.msg) for one in messages] == [("strake.W010", "Redis: slow"), ("strake.E010", "Mail: refused")]
    settings.STRAKE_CHECK_SERVICES = 0
    assert checks.check_services(None) == []


def test_proxy_that_resolves_names_is_reported(settings: Settings) -> None:
    for resolves, ids in ((False, []), (True, ["strake.W005"])):
        settings.STRAKE_EGRESS_PROXY = parse("http://proxy:3128", resolves=resolves, exceptions=[])
        assert [message.id for message in checks.check_egress_proxy(None)] == ids
    settings.STRAKE_EGRESS_PROXY = None
    assert checks.check_egress_proxy(None) == []


# --- As it is documented -------------------------------------------------------------------------------------------


def inspect(folder: Path, *arguments: str, **changes: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `inspect` of docs/operations.md with the example files, in which `changes` replace variables."""
    for name in ("operator", "proxy", "web"):
        lines = (ROOT / "deploy" / "etc" / f"{name}.env").read_text()
        added = {"STRAKE_MASTER_KEYS_FILE": str(folder / "keys.json")} if name != "web" else {}
        added |= changes.get(name, {})
        (folder / f"{name}.env").write_text(lines + "".join(f"{key}='{value}'\n" for key, value in added.items()))
    (folder / "keys.json").touch(mode=0o600)
    (folder / "keys.json").write_text(keyring.new_document())
    operations = (ROOT / "docs" / "operations.md").read_text()
    [function] = re.findall(r"^inspect\(\) \{.*\}$", operations, flags=re.MULTILINE)
    manage = f'manage() {{ (set -a && . /etc/strake/operator.env && exec {sys.executable} {ROOT}/manage.py "$@"); }}'
    return subprocess.run(
        ["bash", "-c", f'{manage}\n{function}\ninspect "$@"'.replace("/etc/strake", str(folder)), "sh", *arguments],
        env={"PATH": os.environ["PATH"], "STRAKE_CHECK_SERVICES": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_documented_files_cause_no_message(tmp_path: Path) -> None:
    done = inspect(tmp_path, "check", "--deploy")
    assert (done.returncode, done.stderr) == (0, "")


def test_documented_command_knows_both_halves(tmp_path: Path) -> None:
    mail = {"EMAIL_URL": "smtp://user:hunter2@mail.example.org:587"}
    done = inspect(tmp_path, "check", "--deploy", web=mail, proxy={"STRAKE_BIND": "10.99.0.11:8000"})
    assert done.returncode == 1
    assert re.findall(r"\((\w+\.\w+)\)", done.stderr) == ["strake.E002", "strake.W004"]
    assert "hunter2" not in done.stderr
