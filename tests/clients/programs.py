"""Command-line clients, and how a test runs each with the lines of its page.

The lines run unchanged. In front of the PATH is a folder in which each program has its name, and is told to answer one
prompt instead of opening a terminal.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from credentials.dashboard.snippets import TOKEN_PLACEHOLDER, Text
from credentials.models import Endpoint as EndpointRow
from credentials.providers import Dialect, Provider
from strake.pages.guides import GUIDES

PROMPT = "Say hello."
SAMPLE = "abc123def456"
SECONDS = 150
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")


@dataclass(frozen=True)
class Program:
    """A client.

    `command` is the program in the folder of the clients. What the page starts as `name` gets `arguments` too, except
    if its first argument is one of `verbs`. `run` is a command for a page that has only a file. `only` names the texts
    of the page that are used. `settings` keep the program from calling others than Strake. `message` is what it shows
    about a refusal, if it does not show what Strake says.
    """

    guide: str
    dialect: Dialect
    name: str
    command: str
    arguments: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    verbs: tuple[str, ...] = ()
    run: str = ""
    only: tuple[str, ...] = ()
    most_requests: int = 12
    message: str = ""

    @property
    def provider(self) -> Provider:
        """The provider that the lines of the page are for."""
        return dict(GUIDES[self.guide].examples())[self.dialect]

    @property
    def id(self) -> str:
        kinds = [str(self.dialect)] if len(GUIDES[self.guide].parts) > 1 else []
        kinds += ["built-in"] if "codex-built-in" in self.only else []
        return "-".join((self.guide, *kinds))


_NODE = "node/node_modules/.bin"
_CLAUDE = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
_OPENCODE = {
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
}
_KILO = {name.replace("OPENCODE", "KILO"): value for name, value in _OPENCODE.items()}
_AIDER = {
    "AIDER_ANALYTICS": "false",
    "AIDER_CHECK_UPDATE": "false",
    "AIDER_GIT": "false",
    "AIDER_SHOW_MODEL_WARNINGS": "false",
    "AIDER_SHOW_RELEASE_NOTES": "false",
    "AIDER_YES_ALWAYS": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
_CONTINUE = {"CONTINUE_TELEMETRY_ENABLED": "0", "CONTINUE_CLI_AUTO_UPDATED": "1"}
_PI = {"PI_OFFLINE": "1", "PI_TELEMETRY": "0"}
_COPILOT = "Check your COPILOT_PROVIDER_API_KEY"
_QUOTED = f'"{PROMPT}"'

OPENAI, ANTHROPIC, GEMINI = Dialect.OPENAI, Dialect.ANTHROPIC, Dialect.GEMINI
_CODEX = f"exec --skip-git-repo-check {_QUOTED}"

PROGRAMS = (
    Program("claude-code", ANTHROPIC, "claude", f"{_NODE}/claude", f"-p {_QUOTED}", _CLAUDE, only=("claude-code",)),
    Program("claude-code-bedrock", ANTHROPIC, "claude", f"{_NODE}/claude", f"-p {_QUOTED}", _CLAUDE, most_requests=24),
    Program("codex", OPENAI, "codex", f"{_NODE}/codex", _CODEX, only=("codex", "codex-shell")),
    Program(
        "codex",
        OPENAI,
        "codex",
        f"{_NODE}/codex",
        _CODEX,
        verbs=("login",),
        only=("codex-built-in", "codex-login"),
        most_requests=24,
    ),
    Program("gemini-cli", GEMINI, "gemini", f"{_NODE}/gemini", f"--skip-trust -p {_QUOTED}"),
    *(
        Program("opencode", dialect, "opencode", f"{_NODE}/opencode", settings=_OPENCODE, run=f"opencode run {_QUOTED}")
        for dialect in Dialect
    ),
    Program(
        "kilo",
        ANTHROPIC,
        "kilo",
        "node/node_modules/@kilocode/cli-linux-x64/bin/kilo",
        settings=_KILO,
        run=f"kilo run {_QUOTED}",
    ),
    Program("qwen-code", OPENAI, "qwen", f"{_NODE}/qwen", f"-p {_QUOTED}"),
    *(
        Program("copilot-cli", dialect, "copilot", f"{_NODE}/copilot", f"-p {_QUOTED}", message=_COPILOT)
        for dialect in (OPENAI, ANTHROPIC)
    ),
    Program("cline", OPENAI, "cline", f"{_NODE}/cline", _QUOTED, verbs=("auth",)),
    *(
        Program("aider", dialect, "aider", "aider/bin/aider", f"--message {_QUOTED}", _AIDER, most_requests=40)
        for dialect in (OPENAI, ANTHROPIC)
    ),
    Program(
        "pi",
        ANTHROPIC,
        "pi",
        f"{_NODE}/pi",
        settings=_PI,
        run=f"pi --provider anthropic --model claude-sonnet-4-5 -p {_QUOTED}",
    ),
    *(
        Program("continue", dialect, "cn", f"{_NODE}/cn", settings=_CONTINUE, run=f"cn -p {_QUOTED}")
        for dialect in (OPENAI, ANTHROPIC)
    ),
    Program("llm", OPENAI, "llm", "python/bin/llm"),
    Program("shell-gpt", OPENAI, "sgpt", "python/bin/sgpt"),
)


@dataclass
class Outcome:
    """What a program did. Times are in seconds since `started_at`, which is by `time.monotonic`."""

    status: int | None
    started_at: float
    seconds: float
    chunks: list[tuple[float, str]]

    @property
    def output(self) -> str:
        return _plain("".join(chunk for _, chunk in self.chunks))

    def seconds_to(self, text: str) -> float | None:
        """When a text was first in the output, or None."""
        whole = ""
        for at, chunk in self.chunks:
            whole += chunk
            if text in _plain(whole):
                return at
        return None


def _plain(text: str) -> str:
    """Without colours, and on one line: some programs wrap their output."""
    return " ".join(_ANSI.sub("", text).split())


def texts(program: Program, url: str, token: str) -> list[Text]:
    """The lines of the program's page, with an endpoint filled in."""
    row = EndpointRow(subdomain=SAMPLE, provider=program.provider.slug)
    lines = GUIDES[program.guide].texts(row, program.provider, program.dialect)
    found = [text for text in lines if not program.only or text.id in program.only]
    return [
        Text(text.id, text.heading, text.text.replace(row.url, url).replace(TOKEN_PLACEHOLDER, token)) for text in found
    ]


def prepare(program: Program, executable: Path, home: Path, url: str, token: str) -> str:
    """Write the files of the program's page into a home folder. Returns the script for the shell."""
    (home / "work").mkdir(parents=True, exist_ok=True)
    _write_wrapper(program, executable, home / "bin")
    script = [program.run] if program.run else []
    for text in texts(program, url, token):
        file = re.search(r"~/(\S+)", text.heading)
        if file is None:
            script.insert(0, text.text)
            continue
        path = home / file[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.text + "\n")
    return "\n".join(script)


def _write_wrapper(program: Program, executable: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    verbs = "|".join(program.verbs) or "no-verb"
    wrapper = folder / program.name
    as_it_is = f'case "$1" in {verbs}) exec {executable} "$@" ;; esac'
    wrapper.write_text(f'#!/bin/sh\n{as_it_is}\nexec {executable} "$@" {program.arguments}\n')
    wrapper.chmod(0o755)


def run(program: Program, script: str, home: Path, hosts: Path) -> Outcome:
    """Run the script with `hosts` in the place of /etc/hosts, and nothing of this process's environment."""
    environment = {
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        **program.settings,
    }
    inner = 'mount --bind "$1" /etc/hosts && exec sh -euc "$2"'
    started = time.monotonic()
    process = subprocess.Popen(
        ["unshare", "-Urm", "sh", "-c", inner, "sh", str(hosts), script],
        cwd=home / "work",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    chunks = list(_read(process, started))
    try:
        status: int | None = process.wait(5)
    except subprocess.TimeoutExpired:
        status = None
    seconds = time.monotonic() - started
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # programs leave servers behind
    process.wait()
    return Outcome(status, started, seconds, chunks)


def _read(process: subprocess.Popen[bytes], started: float) -> list[tuple[float, str]]:
    assert process.stdout is not None
    chunks = []
    with selectors.DefaultSelector() as selector, process.stdout as output:
        selector.register(output, selectors.EVENT_READ)
        while (left := started + SECONDS - time.monotonic()) > 0:
            if not selector.select(min(left, 0.2)):
                if process.poll() is not None:
                    break
                continue
            data = os.read(output.fileno(), 65536)
            if not data:
                break
            chunks.append((time.monotonic() - started, data.decode(errors="replace")))
    return chunks
