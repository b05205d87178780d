"""What a process can tell of itself without privileges. The web half is confined, and cannot read /proc.

prometheus-client's own collector measures one process per scrape, and needs /proc.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import time
from pathlib import Path

from accounts.metrics import Counter, Gauge

_MAX_LOOKED_AT = 4096

CPU = Counter("process_cpu_seconds_total", "Processor time that the process has used.", ["process"])
MEMORY = Gauge("process_resident_memory_bytes", "Resident memory, shared pages included.", ["process"])
STARTED = Gauge("process_start_time_seconds", "When the process began to publish metrics.", ["process"])
DESCRIPTORS = Gauge("process_open_fds", "Open file descriptors.", ["process"])
MAX_DESCRIPTORS = Gauge("process_max_fds", "The limit of open file descriptors.", ["process"])


def measure_process(name: str) -> None:
    """Measure this process, which the label `process` calls `name`."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    CPU.set(used.ru_utime + used.ru_stime, name)
    if not STARTED.values:
        STARTED.set(time.time(), name)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    MAX_DESCRIPTORS.set(limit, name)
    DESCRIPTORS.set(open_descriptors(limit), name)
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        MEMORY.set(pages * os.sysconf("SC_PAGE_SIZE"), name)


def open_descriptors(limit: int) -> int:
    """Return how many descriptors are open. Without /proc, only the first few thousand are looked at."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # but for the one that lists them
    except OSError:
        poll = select.poll()
        looked_at = min(limit, _MAX_LOOKED_AT)
        for descriptor in range(looked_at):
            poll.register(descriptor, 0)
        return looked_at - sum(bool(event & select.POLLNVAL) for _, event in poll.poll(0))
