"""Build Strake's image, and run containers of it with Podman and runc. Needs root and Debian's packages.

No registry is needed: the base is a Debian made by mmdebstrap, in the place of python:3.11-slim-bookworm.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support.running import KEY, ROOT, Endpoint
from tests.support.services import free_port

IMAGE, BASE = "localhost/strake:test", "localhost/strake-base:bookworm"
PROGRAMS = ("podman", "buildah", "runc", "mmdebstrap", "iptables")
MAX_BYTES = 250_000_000
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "strake-container"
_RUNTIME = Path(__file__).with_name("runtime.py")
# What Debian's slim images leave out, and perl, which venv's packages bring along.
_LEFT_OUT = ("doc", "man", "info", "locale", "perl")


def podman(*arguments: str, text: str | None = None, check: bool = True) -> str:
    """Run podman and return what it printed. The runtime is a wrapper for roots that may not raise limits."""
    command = ["podman", "--runtime", str(_RUNTIME), *arguments]
    result = subprocess.run(command, input=text or "", capture_output=True, text=True, timeout=600, check=False)
    assert not check or result.returncode == 0, f"{arguments}\n{result.stdout}{result.stderr}"
    return result.stdout


def build() -> None:
    """Build the image on the base, which is made once and kept in the cache."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    assert not missing, f"apt-get install --no-install-recommends {' '.join(missing)} netavark aardvark-dns"
    if not podman("images", "-q", BASE):
        podman("import", "-q", str(_base()), BASE)
    command = [
        "buildah",
        "build",
        "--layers",
        "--isolation",
        "chroot",
        "--format",
        "docker",
        "--build-arg",
        f"BASE={BASE}",
    ]
    # The certificates of this machine, whose network may have an authority of its own.
    command += ["--volume", "/etc/ssl/certs:/etc/ssl/certs:ro", "--tag", IMAGE, str(ROOT)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=3600)


def _base() -> Path:
    made = _CACHE / "bookworm.tar"
    if not made.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        folders = [f"/usr/share/{name}" for name in _LEFT_OUT] + ["/usr/lib/x86_64-linux-gnu/perl"]
        left_out = [f"--dpkgopt=path-exclude={folder}/*" for folder in folders]
        packages = "--include=python3,python3-venv,ca-certificates"
        draft = made.with_name(".bookworm.tar")
        command = ["mmdebstrap", "--variant=minbase", packages, *left_out, "bookworm", str(draft)]
        subprocess.run(command, check=True, timeout=3600)
        draft.rename(made)
    return made


def inspect() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(podman("image", "inspect", IMAGE))[0]
    return found


def layers() -> str:
    return podman("history", "--format", "{{.Size}}  {{.CreatedBy}}", "--no-trunc", IMAGE)


class Container:
    """One container. `options` are arguments of `podman run`. Removed at the end of the `with` block."""

    def __init__(
        self, options: Sequence[str] = (), command: Sequence[str] = (), *, port: int = 0, image: str = IMAGE
    ) -> None:
        self.port = port or free_port()
        self._options, self._command, self._image = options, command, image
        self.id = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def create(self) -> Self:
        """Start it without waiting."""
        self.id = podman("run", "--detach", *self._options, self._image, *self._command).strip()
        return self

    def wait(self, seconds: float = 60) -> int:
        """Wait for its end, and return the exit status."""
        end = time.monotonic() + seconds
        while self.state["Running"]:
            assert time.monotonic() < end, f"still running:\n{self.logs()}"
            time.sleep(0.1)
        return int(self.state["ExitCode"])

    def ready(self, host: str = "localhost", path: str = "/readyz", seconds: float = 180) -> Self:
        """Wait for a probe, or a page, to succeed."""
        end = time.monotonic() + seconds
        while not self._answers(host, path):
            assert self.state["Running"], f"ended:\n{self.logs()}"
            assert time.monotonic() < end, f"no {path}:\n{self.logs()}"
            time.sleep(0.1)
        return self

    def _answers(self, host: str, path: str) -> bool:
        try:
            return httpx.get(self.url + path, headers={"Host": host}, timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(podman("inspect", self.id))[0]["State"]
        return found

    def logs(self) -> str:
        result = subprocess.run(["podman", "logs", self.id], capture_output=True, text=True, timeout=600, check=False)
        return result.stdout + result.stderr

    def execute(self, *command: str, text: str | None = None, user: str = "") -> str:
        return podman("exec", "--interactive", *(["--user", user] if user else []), self.id, *command, text=text)

    def manage(self, *arguments: str, text: str | None = None) -> str:
        return self.execute("python", "manage.py", *arguments, text=text)

    def connect(self, destination: str) -> Endpoint:
        """Connect a provider as an operator does."""
        options = ["--email=me@localhost.localdomain", "--provider=custom", "--key-stdin", "--json", "--unchecked"]
        made = json.loads(self.manage("connect", f"--destination={destination}", *options, text=KEY))
        return Endpoint(f"{self.url}/p/{made['subdomain']}", made["subdomain"], made["token"], made["token_id"])

    def signal(self, name: str) -> None:
        podman("kill", "--signal", name, self.id)

    def start_again(self) -> None:
        podman("start", self.id)

    def __enter__(self) -> Self:
        return self.create()

    def __exit__(self, *_: object) -> None:
        podman("rm", "--force", "--volumes", "--time", "0", self.id, check=False)


def variables(values: Mapping[str, str]) -> list[str]:
    return [f"--env={name}={value}" for name, value in values.items()]
