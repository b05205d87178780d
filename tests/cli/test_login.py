"""Signing in with a code: in a browser, or with one key on the machine of `make run`."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import stat
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.cli.conftest import Cli
from tests.support.running import Strake
from tests.support.upstream import eventually


@pytest.fixture
def visitor(strake: Strake, tmp_path: Path) -> Cli:
    """The command line of somebody who is not signed in."""
    return Cli(strake, tmp_path, f"{tmp_path.name}@example.org")


def allow(strake: Strake, email: str, address: str) -> None:
    """Open the page of a code as a browser that is not signed in, sign in, and press Allow."""
    with httpx.Client(base_url=strake.url.replace("127.0.0.1", "localhost"), follow_redirects=True) as browser:

        def submit(page: httpx.Response, path: str, **fields: str) -> httpx.Response:
            hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text))
            return browser.post(path, data=hidden | fields)

        assert browser.get(address).url.path == "/signin/"
        link = urlsplit(strake.call("signin_link", email=email)["link"]).path
        submit(browser.get(link), "/signin/confirm/")
        page = browser.get(address)
        assert "Compare the code" in page.text
        submit(page, "/device/", decision="allow")


def test_code_is_allowed_in_the_browser_that_opens(visitor: Cli, strake: Strake) -> None:
    opened = visitor.home / "opened"
    browser = visitor.home / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{opened}.new && mv {opened}.new {opened}\n')
    browser.chmod(0o755)
    environment = visitor.environment | {"BROWSER": str(browser)}
    process = subprocess.Popen(
        [*visitor.command, "login"], env=environment, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    eventually(opened.exists)
    allow(strake, visitor.email, opened.read_text().strip())
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert f"Signed in to {visitor.server} as {visitor.email}." in said
    code = opened.read_text().strip().partition("user_code=")[2]
    assert code in said
    assert stat.S_IMODE(visitor.config.stat().st_mode) == 0o600
    token = json.loads(visitor.config.read_text())["servers"][visitor.server]["access_token"]
    assert token not in said
    assert visitor.json("whoami")["user"]["email"] == visitor.email
    visitor.run("logout")
    assert token not in visitor.config.read_text()
    assert "does not accept" in visitor.run("whoami", code=3, STRAKE_ACCESS_TOKEN=token)


def test_one_key_signs_in_next_to_the_server(visitor: Cli, strake: Strake) -> None:
    """The launcher names manage.py, which lets the program sign in. Who can run that may do everything anyway."""
    given = visitor.home / "given"
    manage = shlex.join(
        ["sh", "-c", f'cat >{given}.new; echo " $*" >>{given}.new; mv {given}.new {given}', "manage.py"]
    )
    strake.call("signin_link", email=visitor.email)
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*visitor.command, "login"],
        env=visitor.environment | {"STRAKE_MANAGE": manage, "PORT": str(strake.port)},
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    output = b""

    def read_until(text: bytes) -> None:
        nonlocal output
        while text not in output:
            output += os.read(leader, 4096)

    read_until(b"[Y/n]")
    os.write(leader, b"\n")
    eventually(given.exists)
    code, *arguments = given.read_text().split()
    assert arguments == ["allow_device", "--code-stdin"]
    strake.call("allow_device", email=visitor.email, user_code=code)
    read_until(b"Signed in to")
    assert process.wait(60) == 0
    os.close(leader)
