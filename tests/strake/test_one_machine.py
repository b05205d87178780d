"""One machine for others: an https origin, everything in STRAKE_HOME, no database server, no Redis and no mail."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.support.running import Strake
from tests.support.upstream import Upstream

HOST = "strake.example.org"
INIT = ("manage.py", "serve", "--init")


def one_machine(folder: Path, **environment: str) -> Strake:
    settings = {"STRAKE_BASE_URL": f"https://{HOST}", "STRAKE_TRUSTED_PROXIES": "1"}
    return Strake(folder / "home", settings | environment, command=INIT)


@pytest.mark.parametrize(
    "arguments", [["migrate"], ["signin_link", "a@example.org"], ["serve"], ["restore", "x"]], ids=lambda a: a[0]
)
def test_folder_without_a_vault_is_not_initialised(tmp_path: Path, arguments: list[str]) -> None:
    strake = one_machine(tmp_path)
    done = strake.manage(*arguments)
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert "holds neither master keys nor a database" in done.stderr
    first, _, last = done.stderr.partition("Only for a new installation, run: manage.py serve --init")
    assert last, "a new keyring opens no backup"
    assert f"To restore a backup, put its keyring in place first, as {strake.home}/vault/master-keys.json" in first
    assert not strake.home.exists()


def test_people_sign_in_with_links_from_the_operator(tmp_path: Path, upstream: Upstream) -> None:
    strake = one_machine(tmp_path)
    with strake, httpx.Client(base_url=strake.url, headers={"Host": HOST, "Origin": f"https://{HOST}"}) as browser:
        page = browser.get("/signin/")
        assert "send email" in page.text
        assert "<button" not in page.text.partition("<footer")[0]
        link = strake.manage("signin_link", "ann@example.org", check=True).stdout.strip()
        opened = browser.get(link.removeprefix(f"https://{HOST}"))
        cookies = [value.partition(";")[0] for value in opened.headers.get_list("set-cookie")]
        confirm = browser.get(opened.headers["location"], headers={"Cookie": "; ".join(cookies)})
        cookies += [value.partition(";")[0] for value in confirm.headers.get_list("set-cookie")]
        form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', confirm.text))
        signed_in = browser.post("/signin/confirm/", data=form, headers={"Cookie": "; ".join(cookies)})
        assert signed_in.status_code == 303, signed_in.text
        endpoint = strake.connect(upstream.url)
        assert httpx.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer).status_code == 200
    said = strake.log()
    assert "signin_link YOUR-EMAIL" in said
    assert "link_" not in said, "the log of a service is no place for a link"


def test_half_a_configuration_names_both_ways(tmp_path: Path) -> None:
    done = one_machine(tmp_path, REDIS_URL="redis://127.0.0.1/0").manage("check")
    assert done.returncode == 78
    assert "For one machine, set STRAKE_HOME" in done.stderr
    assert "set both" in done.stderr


def test_ports_have_their_own_cookies(tmp_path: Path) -> None:
    for port, expected in (("", "__Host-strake-session\n"), (":8443", "__Host-strake-session-8443\n")):
        strake = one_machine(tmp_path, STRAKE_BASE_URL=f"https://{HOST}{port}")
        assert strake.python("from django.conf import settings; print(settings.SESSION_COOKIE_NAME)") == expected
