"""The real thing: `manage.py serve` as a process of its own, with a data folder, a port and a log of its own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
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

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-real-0123456789abcdefghijklmnopqrstuvwxyz"  # the provider key behind endpoints of tests


@dataclass(frozen=True)
class Endpoint:
    """An endpoint of a running Strake with one of its tokens."""

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


class Strake:
    """A running Strake. Use it as a context manager, or `start` and `stop` it.

    Upstreams on 127.0.0.1 are allowed unless `environment` says otherwise. Further variables of the environment, such
    as DATABASE_URL or WEB_CONCURRENCY, go in by `environment`. `command` is what this Python is started with.
    """

    def __init__(
        self,
        home: Path,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = ("manage.py", "serve", "--no-link"),
    ) -> None:
        self.home = home
        self.port = _free_port()
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
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._provisioner: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    # --- Its life --------------------------------------------------------------------------------------------------

    def start(self, seconds: float = 30) -> Self:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._command],
                cwd=ROOT,
                env=self.environment,
                preexec_fn=as_ordinary_user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + seconds
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"Strake does not start:\n{self.log()}")
            time.sleep(0.05)
        return self

    def stop(self, seconds: float = 60) -> int | None:
        """End it by SIGTERM, after `seconds` by SIGKILL. Returns the exit status."""
        self.hang_up()
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            for pid in (*_children(process.pid), process.pid):
                _kill(pid)
            return process.wait(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process that `manage.py serve` became, gunicorn's arbiter."""
        if self._process is None:
            raise RuntimeError("Strake is not running.")
        return self._process.pid

    @property
    def workers(self) -> list[int]:
        """The ids of the worker processes."""
        return [pid for pid in _children(self.pid) if b"strake.demo" not in _command(pid)]

    def log(self) -> str:
        """Everything it has printed."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # --- Its operator ----------------------------------------------------------------------------------------------

    def manage(self, *arguments: str, stdin: str = "", check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a `manage.py` command against the same data. With `check`, it must succeed."""
        return self._run(["manage.py", *arguments], stdin=stdin, check=check)

    def python(self, code: str, *arguments: str) -> str:
        """Run code with this Strake's models, `sys` being imported; what it printed."""
        return self._run(["-c", f"import django, sys; django.setup()\n{code}", *arguments], check=True).stdout

    def _run(self, command: list[str], *, stdin: str = "", check: bool) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
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

    def call(self, verb: str, **fields: Any) -> dict[str, Any]:
        """One of the operator's services (tests/provisioner.py), in milliseconds. Raises `RuntimeError`."""
        with self._lock:
            if self._provisioner is None:
                self._provisioner = subprocess.Popen(
                    [sys.executable, "-m", "tests.provisioner"],
                    cwd=ROOT,
                    env=self.environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            process = self._provisioner
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"verb": verb, **fields}) + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def hang_up(self) -> None:
        """End the operator's process, and with it the last connection to the database that is not the server's."""
        if self._provisioner is not None and self._provisioner.stdin is not None:
            self._provisioner.stdin.close()
            self._provisioner.wait(10)
            if self._provisioner.stdout is not None:
                self._provisioner.stdout.close()
            self._provisioner = None

    def connect(self, destination: str = "", *, key: str = KEY, provider: str = "custom", **fields: Any) -> Endpoint:
        """A new endpoint; `fields` are those of `credentials.services.connect`, such as `header_name`."""
        made = self.call("connect", provider=provider, key=key, destination_url=destination, **fields)
        # Dialled by number: "localhost" would try another address family first.
        made["url"] = self.url + urlsplit(made["url"]).path
        return Endpoint(**made)

    def issue(self, endpoint: Endpoint, **limits: Any) -> Endpoint:
        """The endpoint with one more token, which has these limits."""
        issued = self.call("issue", subdomain=endpoint.subdomain, **limits)
        return Endpoint(endpoint.url, endpoint.subdomain, issued["token"], issued["token_id"])

    def rotate(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint with the new value of its token; the old one is dead."""
        issued = self.call("rotate", token_id=endpoint.token_id)
        return Endpoint(endpoint.url, endpoint.subdomain, issued["token"], issued["token_id"])

    def revoke(self, endpoint: Endpoint) -> None:
        self.call("revoke", token_id=endpoint.token_id)

    def _answers(self) -> bool:
        # A first answer and not a first connection: the socket listens before the workers are ready.
        try:
            with socket.create_connection(self.address, 1) as probe:
                probe.settimeout(2)
                probe.sendall(b"GET /p/000000000000/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return probe.recv(16).startswith(b"HTTP/1.1 401")
        except OSError:
            return False


# What a process needs to run at all; nothing of a developer's own configuration.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "COVERAGE_PROCESS_CONFIG")


def as_ordinary_user() -> None:
    """For `preexec_fn`: what is started has no capabilities, as in production, also where the tests run as root."""
    libc = ctypes.CDLL(None)
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: execve gives root nothing beyond this set


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
