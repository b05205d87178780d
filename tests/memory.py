"""Look for a secret in the memory of a process, as a debugger would. Needs root, since Strake is not dumpable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def copies(pid: int, secret: bytes, around: int = 0) -> list[bytes]:
    """Every place in the writable memory of a process that holds `secret`, with some bytes before and behind it."""
    return [data for _, data in places(pid, secret, around)]


def places(pid: int, secret: bytes, around: int = 0) -> Iterator[tuple[str, bytes]]:
    """As `copies`, with the kind of memory each stands in: "[heap]", "[stack]", a file, or nothing for anonymous."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw\S+ \S+ \S+ \S+\s*(.*)", line)
            if found is None or found[3] in {"[vvar]", "[vsyscall]"}:
                continue
            start, end = int(found[1], 16), int(found[2], 16)
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except OSError:
                continue
            position = data.find(secret)
            while position >= 0:
                yield found[3], data[max(0, position - around) : position + len(secret) + around]
                position = data.find(secret, position + 1)
