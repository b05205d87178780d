"""What processes use, as Linux counts it: processor time and memory of a gateway's whole process tree."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def tree(pid: int) -> list[int]:
    """The process and all of its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        children = []
    return [pid, *(descendant for child in children for descendant in tree(int(child)))]


def cpu_seconds(pids: Iterable[int]) -> float:
    """The processor time of every thread, in nanosecond steps. A thread that has ended no longer counts."""
    nanoseconds = 0
    for pid in pids:
        for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                nanoseconds += int(schedstat.read_text(encoding="ascii").split()[0])
            except OSError:
                continue
    return nanoseconds / 1e9


def memory_kb(pids: Iterable[int], field: str) -> int:
    """The sum of a field of `smaps_rollup`.

    "Pss" is the proportional set size, which counts shared pages once. "Private_Dirty" is what a process has written.
    """
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(f"{field}:"))
    return total
