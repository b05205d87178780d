"""Watch a process from a process of its own: how its memory grows, and which files it opens meanwhile.

In a thread of the tests the interpreter lock would leave it a few looks a second, which a short-lived file escapes.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent


def memory(pid: int) -> int:
    """Resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def files(pid: int) -> set[str]:
    """The files a process has open, sockets and pipes aside. Raises `PermissionError`."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("/"):
                found.add(target)
    return found


class Watch:
    """Use it as a context manager; afterwards `growth` is in bytes, `opened` names files, `samples` counts looks."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.growth = 0
        self.samples = 0
        self.opened: set[str] = set()

    def __enter__(self) -> Self:
        files(self.pid)  # raises here, where the caller can tell why
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.watch", str(self.pid)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has had its first look
        return self

    def __exit__(self, *_: object) -> None:
        output, _ = self._process.communicate(timeout=30)
        seen = json.loads(output)
        self.growth, self.samples, self.opened = seen["growth"], seen["samples"], set(seen["opened"])


def main(pid: int) -> None:
    """Look every millisecond or so until standard input closes, then report."""
    with contextlib.suppress(PermissionError):
        os.nice(-10)  # a busy machine must not make it look away
    before, known = memory(pid), files(pid)
    sys.stdout.write("watching\n")
    sys.stdout.flush()
    most, seen, samples = before, set(known), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        most = max(most, memory(pid))
        seen |= files(pid)
        samples += 1
        time.sleep(0.001)
    sys.stdout.write(json.dumps({"growth": most - before, "samples": samples, "opened": sorted(seen - known)}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
