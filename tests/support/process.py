"""Look into other processes: secrets in their memory, how much they use, and the files they open.

`python -m tests.support.process PID` is the child that `Watch` starts. A thread of the tests would get the interpreter
lock only a few times a second, and would miss files that are open for a shorter time.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]


# --- Memory --------------------------------------------------------------------------------------------------------


def copies(pid: int, secret: bytes, around: int = 0) -> list[bytes]:
    """Return every copy of `secret` in a process's writable memory, with `around` bytes before and after it.

    Needs root, since Strake's processes are not dumpable.
    """
    return [data for _, data in places(pid, secret, around)]


def places(pid: int, secret: bytes, around: int = 0) -> Iterator[tuple[str, bytes]]:
    """Like `copies`, with the kind of each mapping: "[heap]", "[stack]", a file, or "" for anonymous memory."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            mapping = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw\S+ \S+ \S+ \S+\s*(.*)", line)
            if mapping is None or mapping[3] in {"[vvar]", "[vsyscall]"}:
                continue
            start, end = int(mapping[1], 16), int(mapping[2], 16)
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except OSError:
                continue
            position = data.find(secret)
            while position >= 0:
                yield mapping[3], data[max(0, position - around) : position + len(secret) + around]
                position = data.find(secret, position + 1)


def memory(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(pid: int, field: str) -> float:
    """Return one line of /proc/PID/smaps_rollup in megabytes, such as "Pss" or "Private_Dirty"."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


# --- Files and time ------------------------------------------------------------------------------------------------


def files(pid: int) -> set[str]:
    """Return the files that a process has open, without sockets and pipes. Raises `PermissionError`."""
    paths = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("/"):
                paths.add(target)
    return paths


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- Over a span of time -------------------------------------------------------------------------------------------


class Watch:
    """A context manager that samples a process about every millisecond.

    Afterwards `growth` is the memory growth in bytes, `opened` the files opened meanwhile and `samples` their number.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.growth = 0
        self.samples = 0
        self.opened: set[str] = set()

    def __enter__(self) -> Self:
        files(self.pid)  # raises PermissionError here, not in the child
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.process", str(self.pid)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # the child has taken its first sample
        return self

    def __exit__(self, *_: object) -> None:
        output, _errors = self._process.communicate(timeout=60)
        result = json.loads(output)
        self.growth, self.samples, self.opened = result["growth"], result["samples"], set(result["opened"])


def main(pid: int) -> None:
    """Sample a process until standard input closes, then print the result as JSON."""
    with contextlib.suppress(PermissionError):
        os.nice(-10)  # keep sampling on a busy machine
    memory_before, files_before = memory(pid), files(pid)
    sys.stdout.write("watching\n")
    sys.stdout.flush()
    peak, seen, samples = memory_before, set(files_before), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        peak = max(peak, memory(pid))
        seen |= files(pid)
        samples += 1
        time.sleep(0.001)
    result = {"growth": peak - memory_before, "samples": samples, "opened": sorted(seen - files_before)}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]))
