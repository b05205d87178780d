"""The command line as a person runs it: a program with a home folder of its own, against a running Strake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.running import ROOT, Strake

PROVIDER_KEY = "sk-cli-0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass
class Cli:
    """The command line of one person. `outputs` has everything that it has printed."""

    strake: Strake
    home: Path
    email: str
    outputs: list[str] = field(default_factory=list)

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "strake_cli"]

    @property
    def server(self) -> str:
        return f"http://localhost:{self.strake.port}"

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG"}}
        return inherited | {"HOME": str(self.home), "PYTHONPATH": str(ROOT / "cli"), "STRAKE_URL": self.server}

    @property
    def config(self) -> Path:
        return self.home / ".config/strake/config.json"

    def run(self, *arguments: str, stdin: str = "", code: int = 0, **environment: str) -> str:
        """Run a command to its end. Returns its standard output."""
        done = subprocess.run(
            [*self.command, *arguments],
            env=self.environment | environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        self.outputs.append(done.stdout + done.stderr)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout if not code else done.stderr

    def json(self, *arguments: str, stdin: str = "") -> Any:
        return json.loads(self.run(*arguments, "--json", stdin=stdin))

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*self.command, *arguments], env=self.environment, text=True, **(pipes | options))

    def sign_in(self) -> str:
        """Store an access token. Returns it."""
        token: str = self.strake.call("create_access_token", email=self.email)["token"]
        self.run("login", "--token", stdin=token + "\n")
        return token

    def status(self, url: str, token: str) -> int:
        """The status of a request through an endpoint."""
        return httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {token}"}, timeout=60).status_code


@dataclass(frozen=True)
class Demo:
    """An endpoint of the demo provider."""

    subdomain: str
    url: str
    token: str = field(repr=False)


@pytest.fixture(scope="session")
def cli(strake: Strake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The command line of somebody who is signed in.

    After all tests, nothing that was printed has the access token or the provider key, and the first is in one file.
    """
    home = tmp_path_factory.mktemp("home")
    email = f"{home.name}@example.org"
    strake.call("signin_link", email=email)  # creates the account
    cli = Cli(strake, home, email)
    access_token = cli.sign_in()
    yield cli
    everything = "".join(cli.outputs) + strake.log()
    assert access_token not in everything
    assert PROVIDER_KEY not in everything
    texts = {path: path.read_text(errors="replace") for path in home.rglob("*") if path.is_file()}
    assert [path for path, text in texts.items() if access_token in text] == [cli.config]
    assert not [path for path, text in texts.items() if PROVIDER_KEY in text]


@pytest.fixture(scope="session")
def demo(cli: Cli) -> Demo:
    made = cli.json("connect", "demo", "--label", "Try it", "--key-stdin", stdin=PROVIDER_KEY)
    return Demo(made["endpoint"]["subdomain"], made["endpoint"]["url"], made["token"]["plaintext"])
