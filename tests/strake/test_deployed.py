"""Strake as an installation for others runs: https in front, PostgreSQL, Redis, secrets in files, its own user."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import httpx
import pytest

from credentials.keyring import new_document
from tests.running import Strake
from tests.upstream import Upstream

pytestmark = [pytest.mark.postgres, pytest.mark.redis]

HOST = "strake.example.org"


@pytest.fixture
def deployed(tmp_path: Path, postgres_url: str, redis_url: str) -> Strake:
    """Not started yet, since its operator migrates first."""
    files = {
        "STRAKE_SECRET_KEY_FILE": secrets.token_urlsafe(50),
        "STRAKE_MASTER_KEYS_FILE": new_document(),
        "DATABASE_URL_FILE": postgres_url,
        "EMAIL_URL_FILE": "smtp://127.0.0.1:1",
    }
    for name, content in files.items():
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(content)
    environment = {name: str(tmp_path / name) for name in files}
    environment |= {"STRAKE_BASE_URL": f"https://{HOST}", "REDIS_URL": redis_url, "WEB_CONCURRENCY": "2"}
    strake = Strake(tmp_path / "home", environment)
    migrated = strake.manage("migrate")
    assert migrated.returncode == 0, migrated.stderr
    return strake


def browser(strake: Strake) -> httpx.Client:
    """What a reverse proxy passes on: https is nowhere in it."""
    return httpx.Client(base_url=strake.url, headers={"Host": HOST, "Origin": f"https://{HOST}"})


def test_signing_in_gives_a_secure_host_bound_cookie_and_pages_demand_https(deployed: Strake):
    with deployed, browser(deployed) as client:
        link = deployed.manage("signin_link", "alice@example.org").stdout.strip()
        assert link.startswith(f"https://{HOST}/signin/link/")
        shown = client.get(link.removeprefix(f"https://{HOST}"))
        cookies = [parse_cookie(value) for value in shown.headers.get_list("set-cookie")]
        confirm = client.get(shown.headers["location"], headers={"Cookie": pairs(cookies)})
        cookies += [parse_cookie(value) for value in confirm.headers.get_list("set-cookie")]
        form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', confirm.text))
        signed_in = client.post("/signin/confirm/", data=form, headers={"Cookie": pairs(cookies)})
        assert signed_in.status_code == 303, signed_in.text
        session = next(value for value in signed_in.headers.get_list("set-cookie") if "session" in value)
        assert session.startswith("__Host-strake-session=")
        assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(session.split("; "))
        assert 2591990 <= int(session.partition("Max-Age=")[2].partition(";")[0]) <= 2592000
        for answer in (shown, confirm, signed_in):
            assert "max-age=31536000" in answer.headers["strict-transport-security"]
        page = client.get("/endpoints/", headers={"Cookie": session.partition(";")[0]})
        assert page.status_code == 200


def parse_cookie(header: str) -> str:
    return header.partition(";")[0]


def pairs(cookies: list[str]) -> str:
    return "; ".join(cookies)


def test_it_forwards_and_makes_no_data_folder(deployed: Strake, upstream: Upstream):
    with deployed:
        endpoint = deployed.connect(upstream.url)
        answer = httpx.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer)
        assert answer.status_code == 200
    assert not deployed.home.exists(), "the embedded default's folder is for the embedded default"
