"""`strake run`: the tool's variables, its exit code and its signals, and a token that ends with it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Cli, Demo
from tests.support.upstream import eventually

PRINTS = "import json, os; print(json.dumps(dict(os.environ)), flush=True)"
WAITS = f"{PRINTS}; import time; time.sleep(600)"
COUNTS = """
import os, signal, sys, time
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
os.kill(os.getppid(), signal.SIGSTOP)  # it gets its signal later, so that two do not become one
print("ready", os.tcgetpgrp(0) == os.getpgrp(), flush=True)
while not seen:
    time.sleep(0.05)
os.kill(os.getppid(), signal.SIGCONT)
time.sleep(1)
print("interrupted", len(seen), flush=True)
sys.exit(5)
"""


def started(cli: Cli, demo: Demo, code: str = WAITS) -> tuple[subprocess.Popen[str], str]:
    """A tool that runs until it is stopped, and the token that it got."""
    process = cli.start("run", demo.subdomain, "--", sys.executable, "-c", code)
    assert process.stdout is not None
    token = json.loads(process.stdout.readline())["STRAKE_TOKEN"]
    assert cli.status(demo.url, token) == 200
    return process, token


def test_exit_code_is_the_tools_and_its_token_is_revoked(cli: Cli, demo: Demo) -> None:
    script = f"{PRINTS}; import sys; sys.exit(7)"
    cli.run("run", demo.subdomain, "--rpm", "60", "--paths", "/v1/*", "--", sys.executable, "-c", script, code=7)
    seen = json.loads(cli.outputs.pop().splitlines()[0])  # the tool has the token, and may print it
    assert seen["OPENAI_BASE_URL"] == f"{demo.url}/v1"
    assert seen["OPENAI_API_KEY"] == seen["STRAKE_TOKEN"]
    assert not {"ANTHROPIC_BASE_URL", "STRAKE_ACCESS_TOKEN"} & seen.keys()
    assert cli.status(demo.url, seen["STRAKE_TOKEN"]) == 401


def test_signal_reaches_the_tool_and_no_command_line_has_a_secret(cli: Cli, demo: Demo) -> None:
    process, token = started(cli, demo)
    access_token = json.loads(cli.config.read_text())["servers"][cli.server]["access_token"]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().decode(errors="replace")
            assert not [secret for secret in (token, access_token, demo.token) if secret in command]
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert cli.status(demo.url, token) == 401


def test_killed_command_line_leaves_no_token(cli: Cli, demo: Demo) -> None:
    process, token = started(cli, demo, f"{PRINTS}; import time; time.sleep(3)")
    process.kill()
    eventually(lambda: cli.status(demo.url, token) == 401, 30, what="the watcher revokes it")
    process.communicate(timeout=60)  # until the tool has ended


def test_tool_that_cannot_run_leaves_no_token(cli: Cli, demo: Demo) -> None:
    assert "There is no program" in cli.run("run", demo.subdomain, "--", "nonesuch", code=127)
    assert "needs an endpoint with the API of gemini" in cli.run("run", demo.subdomain, "--", "gemini", code=1)
    made = {one["label"]: one for one in cli.json("tokens", "list", demo.subdomain)["tokens"]}
    assert made["strake run nonesuch"]["revoked_at"]
    assert "strake run gemini" not in made


def test_interrupt_key_reaches_the_tool_once(cli: Cli, demo: Demo) -> None:
    """The tool is in the terminal's foreground group, and the signal is not passed on a second time."""
    leader, follower = pty.openpty()
    command = [*cli.command, "run", demo.subdomain, "--", sys.executable, "-c", COUNTS]
    script = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command],
        env=cli.environment,
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

    read_until(b"ready")
    os.write(leader, b"\x03")
    read_until(b"interrupted")
    assert process.wait(60) == 5
    assert b"ready True" in output
    assert b"interrupted 1" in output
    os.close(leader)


def test_printed_token_is_kept_and_replaced_when_revoked(cli: Cli, demo: Demo) -> None:
    first = cli.run("token", "print", demo.subdomain).strip()
    assert cli.run("token", "print", "try it").strip() == first
    kept = json.loads(cli.config.read_text())["tokens"][cli.server][demo.subdomain]
    cli.run("tokens", "revoke", demo.subdomain, kept["id"])
    second = cli.run("token", "print", demo.subdomain).strip()
    assert (cli.status(demo.url, first), cli.status(demo.url, second)) == (401, 200)
    del cli.outputs[-4:]


def test_env_is_for_the_shell(cli: Cli, demo: Demo) -> None:
    lines = cli.run("env", demo.subdomain, "--tool", "claude", "--ttl", "5m")
    warning = cli.outputs.pop()
    script = f'{lines}\necho "$ANTHROPIC_BASE_URL"; [ -n "$ANTHROPIC_AUTH_TOKEN" ] && [ -z "${{ANTHROPIC_API_KEY+x}}" ]'
    done = subprocess.run(
        ["sh", "-euc", script], capture_output=True, text=True, env={"ANTHROPIC_API_KEY": "x"}, check=True
    )
    assert done.stdout.strip() == demo.url
    assert "strake tokens revoke" in warning
