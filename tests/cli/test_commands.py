"""Everything an endpoint has, from the command line, with the exit codes that docs/cli.md lists."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from strake_cli import config
from strake_cli.app import strake as program
from strake_cli.errors import CliError

from tests.cli.conftest import PROVIDER_KEY, Cli, Demo
from tests.support.running import ROOT


def commands(group: click.Group = program) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", found) for inner, found in commands(command))
        else:
            yield name, command


def test_life_of_an_endpoint(cli: Cli) -> None:
    """Endpoints are found by what people read: the name works as well as the subdomain."""
    subdomain, url, first = connected(cli, "Life of one")
    made = cli.json("tokens", "add", "Life of one", "--label", "CI", "--ttl", "8h", "--rpm", "1")["token"]
    assert [cli.status(url, made["plaintext"]) for _ in range(2)] == [200, 429]
    cli.run("tokens", "edit", subdomain, made["id"], "--label", "Build", "--rpm", "none")
    assert cli.status(url, made["plaintext"]) == 200
    rotated = cli.run("tokens", "rotate", subdomain, made["id"]).strip()
    assert (cli.status(url, made["plaintext"]), cli.status(url, rotated)) == (401, 200)
    cli.run("tokens", "revoke", subdomain, made["id"])
    assert cli.status(url, rotated) == 401
    cli.run("pause", subdomain)
    assert cli.status(url, first) == 403
    cli.run("doctor", subdomain, code=1)
    assert f"strake resume {subdomain}" in cli.outputs[-1]
    cli.run("resume", subdomain)
    cli.run("rename", subdomain, "Renamed")
    cli.run("replace-key", "Renamed", "--key-stdin", stdin=PROVIDER_KEY)
    assert "Renamed" in cli.run("show", subdomain)
    assert made["id"] not in cli.outputs[-1]
    assert cli.json("usage", subdomain)["usage"]["total"]["requests"] >= 0
    actions = {event["action"] for event in cli.json("audit")["events"]}
    assert actions >= {"endpoint.connected", "token.issued", "token.rotated", "token.revoked", "key.replaced"}
    assert "✗" not in cli.run("doctor", subdomain)
    assert "Nothing was deleted" in cli.run("delete", subdomain, stdin="yes\n", code=1)
    cli.run("delete", subdomain, "--yes")
    assert json.loads(cli.run("show", subdomain, "--json", code=4))["error"]["code"] == "not_found"


def connected(cli: Cli, label: str) -> tuple[str, str, str]:
    """The subdomain, the URL and the first token of a new endpoint."""
    made = cli.json("connect", "demo", "--label", label, "--key-stdin", stdin=PROVIDER_KEY)
    return made["endpoint"]["subdomain"], made["endpoint"]["url"], made["token"]["plaintext"]


def test_exit_codes(cli: Cli) -> None:
    nowhere = "http://localhost:1"
    assert f"Run: strake login {nowhere}" in cli.run("whoami", "--server", nowhere, code=3)
    assert "does not answer" in cli.run("whoami", "--server", nowhere, code=5, STRAKE_ACCESS_TOKEN="pat_x")
    assert "Usage" in cli.run("tokens", "add", code=2)


def test_doctor_names_the_step_that_fails(cli: Cli, demo: Demo) -> None:
    cli.run("doctor", demo.subdomain, "--token-stdin", "--json", stdin="strk_wrong", code=1)
    found = json.loads(cli.outputs[-1])["steps"]
    assert [step["name"] for step in found] == ["endpoint", "DNS", "connect", "base URL", "token"]
    assert [step["ok"] for step in found] == [True] * 4 + [False]
    assert "/docs/errors/#invalid_token" in found[-1]["advice"]


def test_no_option_takes_a_secret() -> None:
    """What is in the arguments of a process is in /proc, in the shell's history and in CI logs."""
    not_secret = {"token_id", "token_stdin", "with_token", "key_stdin"}
    for name, command in commands():
        for parameter in command.params:
            if any(word in (parameter.name or "") for word in ("token", "key", "secret", "password")):
                assert getattr(parameter, "is_flag", False) or parameter.name in not_secret, f"{name} {parameter.name}"


def test_every_command_prints_json_and_is_documented() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    for name, command in commands():
        assert f"`strake {name}" in page, name
        assert command.help, name
        assert name == "completion" or "--json" in [option for one in command.params for option in one.opts], name


def test_tokens_are_in_a_file_for_the_person_only(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stat.S_IMODE(cli.config.stat().st_mode) == 0o600
    assert stat.S_IMODE(cli.config.parent.stat().st_mode) == 0o700
    monkeypatch.setenv("XDG_CONFIG_HOME", str(cli.home / ".config"))
    cli.config.chmod(0o640)
    try:
        with pytest.raises(CliError, match="chmod 600"):
            config.read()
    finally:
        cli.config.chmod(0o600)


@pytest.mark.parametrize(
    "address", ["http://strake.example.org", "http://10.0.0.1", "https://u:p@x.org", "https://x/y"]
)
def test_access_token_goes_over_https_only(address: str) -> None:
    with pytest.raises(CliError):
        config.normalise(address)
    assert config.normalise("strake.example.org/") == "https://strake.example.org"
    assert config.normalise("localhost:8000") == "http://localhost:8000"


def test_package_installs_without_the_server(tmp_path: Path) -> None:
    """The wheel has every module, and none of them imports the server or Django."""
    sources = sorted((ROOT / "cli/strake_cli").glob("*.py"))
    for source in sources:
        text = source.read_text()
        assert not any(f"import {name}" in text for name in ("django", "accounts", "credentials", "proxy"))
    assert len(sources) > 10
