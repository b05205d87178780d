"""Strake as it is deployed for other people: https, PostgreSQL, Redis, and secrets in files."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import httpx
import pytest

from credentials.vault.keyring import new_document
from tests.support.running import Strake
from tests.support.upstream import Upstream

pytestmark = [pytest.mark.postgres, pytest.mark.redis]

HOST = "strake.example.org"


def deployed_environment(folder: Path, postgres_url: str, redis_url: str) -> dict[str, str]:
    """The environment variables, with the secrets in files of `folder`."""
    files = {
        "STRAKE_SECRET_KEY_FILE": secrets.token_urlsafe(50),
        "STRAKE_MASTER_KEYS_FILE": new_document(),
        "DATABASE_URL_FILE": postgres_url,
        "EMAIL_URL_FILE": "smtp://127.0.0.1:1",
    }
    for name, content in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(content)
    environment = {name: str(folder / name) for name in files}
    return environment | {"STRAKE_BASE_URL": f"https://{HOST}", "REDIS_URL": redis_url, "WEB_CONCURRENCY": "2"}


@pytest.fixture
def deployed(tmp_path: Path, postgres_url: str, redis_url: str) -> Strake:
    """A migrated Strake that is not running yet."""
    strake = Strake(tmp_path / "home", deployed_environment(tmp_path, postgres_url, redis_url))
    migrated = strake.manage("migrate")
    assert migrated.returncode == 0, migrated.stderr
    return strake


def browser(strake: Strake) -> httpx.Client:
    """A client that sends what a reverse proxy forwards. Nothing in it says https."""
    return httpx.Client(base_url=strake.url, headers={"Host": HOST, "Origin": f"https://{HOST}"})


def test_sign_in_sets_a_secure_host_cookie_and_hsts(deployed: Strake) -> None:
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
        for response in (shown, confirm, signed_in):
            assert "max-age=31536000" in response.headers["strict-transport-security"]
        page = client.get("/endpoints/", headers={"Cookie": session.partition(";")[0]})
        assert page.status_code == 200


def parse_cookie(header: str) -> str:
    return header.partition(";")[0]


def pairs(cookies: list[str]) -> str:
    return "; ".join(cookies)


def test_deployed_strake_creates_no_data_folder(deployed: Strake, upstream: Upstream) -> None:
    with deployed:
        endpoint = deployed.connect(upstream.url)
        response = httpx.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer)
        assert response.status_code == 200
    assert not deployed.home.exists()
