"""What a server process gives up at its start, so that less of it can be read from outside.

A process that may attach to this one (root, or a debugger's capability) reads its memory all the same.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

# Each can be given as a file instead, which is better: NAME_FILE.
SECRET_VARIABLES = ("STRAKE_SECRET_KEY", "STRAKE_MASTER_KEYS", "DATABASE_URL", "REDIS_URL", "EMAIL_URL")

_PR_SET_DUMPABLE = 4  # <linux/prctl.h>


def harden() -> None:
    """Call it once the settings have been read, in the process that serves and again after a fork.

    No core dumps; memory, environment and open files closed to other processes of the same user; files for this user
    alone; the secret variables wiped.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        # Also against core patterns that pipe to a program, which do not look at the limit above.
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")
        _wipe_environment(libc, SECRET_VARIABLES)
    for name in SECRET_VARIABLES:
        os.environ.pop(name, None)


def _wipe_environment(libc: ctypes.CDLL, names: tuple[str, ...]) -> None:
    """Overwrite values where the system put them at the start: /proc/PID/environ shows that place for ever."""
    environ = ctypes.POINTER(ctypes.c_void_p).in_dll(libc, "environ")
    index = 0
    while address := environ[index]:
        name, _, value = ctypes.string_at(address).partition(b"=")
        if name.decode("utf-8", "surrogateescape") in names:
            ctypes.memset(address + len(name) + 1, 0, len(value))
        index += 1
