"""Machines on one network, as network namespaces of a process that `isolated` has started. Linux, as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NETWORK = "10.77.0"
ADDRESS = f"{NETWORK}.1"  # of this process, which is the switch that the machines are connected to
_INSIDE = "STRAKE_TESTS_ISOLATED"


def isolated() -> bool:
    """Return True if this process has its own network and mounts. If not, run the same command with them, and exit.

    Everything that such a process creates (interfaces, namespaces, mounts) is gone when it has ended.
    """
    if os.environ.get(_INSIDE):
        _prepare()
        return True
    command = ["unshare", "--net", "--mount", sys.executable, *sys.orig_argv[1:]]
    sys.exit(subprocess.run(command, env={**os.environ, _INSIDE: "1"}, check=False).returncode)


def missing() -> str:
    """Why this machine cannot run these, or an empty string."""
    if os.getuid() != 0:
        return "not root"
    absent = [name for name in ("unshare", "ip", "setpriv", "haproxy", "redis-server") if not shutil.which(name)]
    if absent:
        return f"not installed: {', '.join(absent)}"
    allowed = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False)
    return "" if allowed.returncode == 0 else "this system allows no namespaces"


def _prepare() -> None:
    Path("/run/netns").mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
    for command in (
        "link set lo up",
        "link add switch type bridge forward_delay 0",
        f"address add {ADDRESS}/24 dev switch",
        "link set switch up",
    ):
        run("ip", *command.split())


class Machine:
    """A machine with the address `NETWORK`.`number`. `prefix` is a command that runs a program on it."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.address = name, f"{NETWORK}.{number}"
        self.prefix: Sequence[str] = ("ip", "netns", "exec", name)
        run("ip", "netns", "add", name)
        run("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", f"to-{name}", "master", "switch", "up")
        for command in ("link set lo up", f"address add {self.address}/24 dev eth0", "link set eth0 up"):
            run("ip", "-netns", name, *command.split())

    def unplug(self) -> None:
        """Pull the cable: nobody is told."""
        run("ip", "link", "set", f"to-{self.name}", "down")

    def plug(self) -> None:
        run("ip", "link", "set", f"to-{self.name}", "up")


def run(*command: str) -> None:
    """Run a command. Raises `RuntimeError` with what it has printed if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
