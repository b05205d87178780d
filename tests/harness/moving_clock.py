"""The time of day of one host, moved while it runs. Monotonic clocks go on as they are. Needs a C compiler."""

from __future__ import annotations

import shutil
import struct
import subprocess
from functools import cached_property
from pathlib import Path

# libfaketime breaks the sleep of Python 3.11 and newer.
_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static int (*real)(clockid_t, struct timespec *);
static const volatile long *offset;

__attribute__((constructor)) static void start(void) {
    real = dlsym(RTLD_NEXT, "clock_gettime");
    int file = open(getenv("MOVING_CLOCK"), O_RDONLY | O_CLOEXEC);
    void *mapped = file < 0 ? MAP_FAILED : mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) offset = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME && offset) time->tv_sec += *offset;
    return result;
}
"""


class MovingClock:
    """`environment` makes a process see the clock, which `move` sets off the real one, by seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.move(0)

    @cached_property
    def environment(self) -> dict[str, str]:
        compiler, library = shutil.which("cc"), self._path.with_suffix(".so")
        if compiler is None:
            return {}
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-o", str(library), "-"]
        subprocess.run(command, input=_SOURCE.encode(), check=True)
        return {"LD_PRELOAD": str(library), "MOVING_CLOCK": str(self._path)}

    def move(self, seconds: int) -> None:
        with self._path.open("r+b" if self._path.exists() else "wb") as file:
            file.write(struct.pack("l", seconds))
