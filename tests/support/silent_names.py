"""A Strake whose DNS server stops answering: `unshare -Urnm python -m tests.support.silent_names`.

An owner uses 50 names that get no answer. A neighbour's requests are timed meanwhile. Prints JSON: the statuses and
seconds of the neighbour's and of the owner's requests, the names that the DNS server was asked for, and Strake's log.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.support.running import Strake
from tests.support.upstream import Upstream, eventually, fixed

NAMES = 50
REQUESTS = 20


class NameServer:
    """Knows no name, and from `fall_silent` on answers nothing."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.is_silent = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            query, peer = self._socket.recvfrom(512)
            if self.is_silent:
                self.asked.add(query[13 : 13 + query[12]].decode())  # the first label
            else:
                self._socket.sendto(query[:2] + b"\x81\x83" + query[4:6] + bytes(6) + query[12:], peer)  # NXDOMAIN


def prepare(folder: Path, hosts: str = "localhost good.example") -> None:
    """Bring loopback up, and replace the files that the resolver of this namespace reads."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING
    files = {
        "/etc/resolv.conf": "nameserver 127.0.0.1\n",
        "/etc/nsswitch.conf": "hosts: files dns\n",
        "/etc/hosts": f"127.0.0.1 {hosts}\n",
    }
    for path, content in files.items():
        private = folder / Path(path).name
        private.write_text(content)
        subprocess.run(["mount", "--bind", str(private), path], check=True)


def timed(client: httpx.Client, url: str, headers: dict[str, str]) -> tuple[int, float]:
    started = time.monotonic()
    status = client.get(url, headers=headers, timeout=60).status_code
    return status, time.monotonic() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as name, Upstream() as upstream:
        folder = Path(name)
        prepare(folder)
        server = NameServer()
        upstream.default = fixed(200, [("Connection", "close")])
        holes = {"STRAKE_ALLOWED_PRIVATE_UPSTREAMS": f"good.example:{upstream.port}"}
        with Strake(folder / "strake", holes) as strake:
            alice = strake.connect(f"http://good.example:{upstream.port}", email="alice@example.org")
            mallory = [
                strake.connect(f"https://silent-{number}.example", email="mallory@example.org")
                for number in range(NAMES)
            ]
            server.is_silent = True
            with httpx.Client() as client, ThreadPoolExecutor(NAMES) as executor:
                waiting = [executor.submit(timed, client, f"{endpoint.url}/x", endpoint.bearer) for endpoint in mallory]
                eventually(lambda: len(server.asked) >= 2, 60)
                neighbour = [timed(client, f"{alice.url}/x", alice.bearer) for _ in range(REQUESTS)]
                others = [future.result() for future in waiting]
            log = strake.log()
        sys.stdout.write(
            json.dumps({"neighbour": neighbour, "others": others, "asked": sorted(server.asked), "log": log})
        )


if __name__ == "__main__":
    main()
