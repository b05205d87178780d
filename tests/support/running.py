"""Start a real Strake: `manage.py serve` as a child process with a new data folder, port and log."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.services import free_port

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-real-0123456789abcdefghijklmnopqrstuvwxyz"  # the default provider key of endpoints


@dataclass(frozen=True)
class Endpoint:
    """An endpoint of a running Strake, with one of its tokens."""

    url: str
    subdomain: str
    token: str = field(repr=False)
    token_id: str

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


def prepare_home(home: Path, database: Path | None = None, *, keys: bool = True) -> Path:
    """Make a data folder as manage.py does, with a copy of this SQLite database. Returns the folder."""
    from credentials.vault import keyring  # after Django's set-up
    from strake.data_dir import DataDir

    DataDir(home).prepare(keyring.new_document if keys else None)
    if database is not None:
        shutil.copy(database, home / "data")
    return home


class Strake:
    """A running Strake. Use it as a context manager, or `start` and `stop` it.

    `environment` adds variables such as DATABASE_URL. By default, upstreams on 127.0.0.1 are allowed. `command` holds
    the arguments for Python, and `prefix` is a command that runs Python. `root` is the folder of the code.
    """

    def __init__(
        self,
        home: Path,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = ("manage.py", "serve", "--no-link"),
        prefix: Sequence[str] = (),
        root: Path = ROOT,
    ) -> None:
        self.home = home
        self.port = free_port()
        self.log_path = home.with_name(f"{home.name}.log")
        inherited = {name: value for name, value in os.environ.items() if name in _INHERITED or name[:4] == "COV_"}
        self.environment = inherited | {
            "DJANGO_SETTINGS_MODULE": "strake.settings",
            "STRAKE_HOME": str(home),
            "PORT": str(self.port),
            "STRAKE_ALLOWED_PRIVATE_UPSTREAMS": "127.0.0.1/32",
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        if "STRAKE_BASE_URL" in self.environment:
            self.environment.setdefault("STRAKE_RUNTIME", f"{home}-run")
        self._command = command
        self._prefix = prefix
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._provisioner: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    # --- Start and stop --------------------------------------------------------------------------------------------

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it, and do not wait until it serves."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, sys.executable, *self._command],
                cwd=self._root,
                env=self.environment,
                preexec_fn=None if self._prefix else as_ordinary_user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self._process

    def start(self, seconds: float = 240) -> Self:
        process = self.launch()
        end = time.monotonic() + seconds
        while not self._responds():
            if process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"Strake did not start:\n{self.log()}")
            time.sleep(0.05)
        return self

    def stop(self, seconds: float = 180) -> int | None:
        """Stop it with SIGTERM, and after `seconds` with SIGKILL. Returns the exit status."""
        self.hang_up()
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            for pid in (*_descendants(process.pid), process.pid):
                _kill(pid)
            return process.wait(60)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of the supervisor."""
        if self._process is None:
            raise RuntimeError("Strake is not running.")
        return self._process.pid

    def half(self, name: str) -> int:
        """The process id of gunicorn's arbiter of one half, "proxy" or "web"."""
        if f"--only={name}" in self._command:
            return self.pid
        (pid,) = (pid for pid in _children(self.pid) if f"--only={name}".encode() in _command(pid))
        return pid

    @property
    def workers(self) -> list[int]:
        """The process ids of the proxy half's workers, which forward."""
        return _children(self.half("proxy"))

    @property
    def web_workers(self) -> list[int]:
        """The process ids of the web half's workers, which serve pages."""
        return _children(self.half("web"))

    @property
    def pids(self) -> list[int]:
        """Every process, without the demo provider, which has no secrets."""
        halves = [self.half("proxy"), self.half("web")]
        return [self.pid, *halves, *self.workers, *self.web_workers]

    def log(self) -> str:
        """Everything that it has printed."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def session_cookie(self) -> str:
        """The name of the session cookie, if the base URL is the default."""
        return f"strake-session-{self.port}"

    # --- Operator commands -----------------------------------------------------------------------------------------

    def manage(self, *arguments: str, stdin: str = "", check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a `manage.py` command with the same data. With `check`, raises `AssertionError` if it fails."""
        return self._run(["manage.py", *arguments], stdin=stdin, check=check)

    def python(self, code: str, *arguments: str) -> str:
        """Run code after `django.setup()`, with `sys` imported. Returns its output."""
        return self._run(["-c", f"import django, sys; django.setup()\n{code}", *arguments], check=True).stdout

    def _run(self, command: list[str], *, stdin: str = "", check: bool) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, *command],
            cwd=self._root,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if check and result.returncode:
            raise AssertionError(f"{command[:2]}: exit code {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    def call(self, function: str, **fields: Any) -> dict[str, Any]:
        """Call a service in tests/support/provisioner.py, which takes milliseconds. Raises `RuntimeError`."""
        with self._lock:
            if self._provisioner is None:
                self._provisioner = subprocess.Popen(
                    [sys.executable, "-m", "tests.support.provisioner"],
                    cwd=ROOT,
                    env=self.environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            process = self._provisioner
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"function": function, **fields}) + "\n")
            process.stdin.flush()
            reply: dict[str, Any] = json.loads(process.stdout.readline())
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply

    def hang_up(self) -> None:
        """End the provisioner, which closes the last connection to the database except those of the server."""
        if self._provisioner is not None and self._provisioner.stdin is not None:
            self._provisioner.stdin.close()
            self._provisioner.wait(60)
            if self._provisioner.stdout is not None:
                self._provisioner.stdout.close()
            self._provisioner = None

    def connect(self, destination: str = "", *, key: str = KEY, provider: str = "custom", **fields: Any) -> Endpoint:
        """Connect an endpoint. `fields` are arguments of `credentials.services.connect`, such as `header_name`."""
        made = self.call("connect", provider=provider, key=key, destination_url=destination, **fields)
        # By number, since clients try "localhost" over IPv6 first.
        made["url"] = self.url + urlsplit(made["url"]).path
        return Endpoint(**made)

    def make(self, provider: str, destination: str, *, key: str = KEY, **fields: Any) -> Endpoint:
        """Create an endpoint of a provider with another destination than the provider's own, without a check.

        `fields` are those of `factories.make_endpoint`.
        """
        made = self.call("make", provider=provider, destination_url=destination, key=key, **fields)
        made["url"] = self.url + urlsplit(made["url"]).path
        return Endpoint(**made)

    def stand_in(self, provider: str, origin: str, *, key: str = KEY) -> Endpoint:
        """Connect a provider of the table, with its base path and header, but at `origin`."""
        from credentials import providers  # after Django's set-up

        own = next(iter(providers.get(provider).destination_urls), "")
        return self.make(provider, origin + urlsplit(own).path, key=key)

    def issue(self, endpoint: Endpoint, **limits: Any) -> Endpoint:
        """Issue another token with these limits. Returns the endpoint with it."""
        issued = self.call("issue", subdomain=endpoint.subdomain, **limits)
        return Endpoint(endpoint.url, endpoint.subdomain, issued["token"], issued["token_id"])

    def rotate(self, endpoint: Endpoint) -> Endpoint:
        """Rotate the token of an endpoint. Returns the endpoint with the new token."""
        issued = self.call("rotate", token_id=endpoint.token_id)
        return Endpoint(endpoint.url, endpoint.subdomain, issued["token"], issued["token_id"])

    def revoke(self, endpoint: Endpoint) -> None:
        self.call("revoke", token_id=endpoint.token_id)

    def _responds(self) -> bool:
        """True if every half that was started serves. Sockets listen before workers are ready, so this asks them."""
        path = b"/livez" if "--only=proxy" in self._command else b"/healthz"
        try:
            with socket.create_connection(self.address, 1) as probe:
                probe.settimeout(30)
                probe.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path)
                return probe.recv(16)[9:12] in {b"200", b"400"}  # 400: another host than localhost is configured
        except OSError:
            return False


# The variables that a process needs. Nothing of the developer's configuration.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "COVERAGE_PROCESS_CONFIG")


def as_ordinary_user() -> None:
    """For `preexec_fn`: drop all capabilities, so that Strake runs as in production even if the tests run as root."""
    libc = ctypes.CDLL(None)
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: execve gives root nothing beyond this set


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _descendants(pid: int) -> list[int]:
    return [found for child in _children(pid) for found in (*_descendants(child), child)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
