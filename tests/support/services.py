"""Services that tests start on loopback, and the ports they listen on. PostgreSQL is in `postgres.py`."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from pathlib import Path

_SHARES = 16
_given: set[int] = set()


class RedisServer:
    """A Redis server that one test may fill, flush, stop and start again. Its data survives `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        # The kernel keeps what a killed process has written, so nothing waits for the disk.
        options += ["--save", "", "--appendonly", "yes", "--appendfsync", "no"]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        wait_for_port(self.port)

    def stop(self) -> None:
        """Kill it, as an outage would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None


def free_port() -> int:
    """Return a loopback port that nothing uses, and that nothing else is given.

    The kernel hands the ports of its range to any connection, perhaps before a server listens on the port, so this
    takes one below that range. Each pytest-xdist worker has other ports than the others.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SHARES
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000 + number, max(lowest, 20_000), _SHARES)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_for_port(port: int, seconds: float = 60, host: str = "127.0.0.1") -> None:
    """Return once something listens on a port, of loopback by default. Raises `TimeoutError`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on {host}:{port} after {seconds} s")
