"""Reduces what other processes of the same user can read of a server process, and what a server process is given.

Root, or a process with CAP_SYS_PTRACE, can still read its memory.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

# Each can also be set as NAME_FILE, the path of a file, which is safer.
WEB_SECRETS = ("STRAKE_SECRET_KEY", "EMAIL_URL")
# The audit key can only be set as a file.
PROXY_SECRETS = ("STRAKE_MASTER_KEYS", "STRAKE_MASTER_KEYS_COMMAND", "STRAKE_AUDIT_KEY")
SECRET_VARIABLES = (*WEB_SECRETS, *PROXY_SECRETS, "DATABASE_URL", "REDIS_URL", "STRAKE_EGRESS_PROXY")

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4  # <linux/prctl.h>
_FOREIGN_SECRETS = {"proxy": WEB_SECRETS, "web": PROXY_SECRETS}


def environment_of(half: str) -> dict[str, str]:
    """The environment for a half, "proxy" or "web": this process's, without the secrets of the other half."""
    foreign = {variable for name in _FOREIGN_SECRETS[half] for variable in (name, f"{name}_FILE")}
    own = {name: value for name, value in os.environ.items() if name not in foreign}
    return own | {"STRAKE_PROCESS": half}


def harden() -> None:
    """Harden this process. Call it after the settings have been read, and again after a fork.

    Disables core dumps, closes memory, environment and open files to other processes of the same user, creates files
    for this user only, and wipes the secret environment variables.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        # Core patterns that pipe to a program ignore RLIMIT_CORE, but not this flag (core(5)).
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")
        _wipe_environment(libc, SECRET_VARIABLES)
    for name in SECRET_VARIABLES:
        os.environ.pop(name, None)


def end_with_parent() -> None:
    """Let this process receive SIGTERM when its parent ends, killed or not, so that nothing stays on the port.

    Call it in a new child. Without Linux it does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _wipe_environment(libc: ctypes.CDLL, names: tuple[str, ...]) -> None:
    """Overwrite the values in the initial environment block, which /proc/PID/environ shows for as long as it runs."""
    environ = ctypes.POINTER(ctypes.c_void_p).in_dll(libc, "environ")
    index = 0
    while address := environ[index]:
        name, _, value = ctypes.string_at(address).partition(b"=")
        if name.decode("utf-8", "surrogateescape") in names:
            ctypes.memset(address + len(name) + 1, 0, len(value))
        index += 1
