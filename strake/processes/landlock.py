"""Confines a process to the files that it needs, with Linux Landlock (landlock(7)).

Whoever runs code in a confined process reaches no other file, even as root, and even through a child process. Landlock
also keeps it from reading or tracing the memory of processes outside and, since Linux 6.12, from signalling them.

Not covered: files that are already open, names and sizes of files (`stat`), TCP, and Unix sockets with a path. A
program behind such a socket (Docker, `systemd --user`) can open files for the process, if it may connect.
"""

from __future__ import annotations

import ctypes
import errno
import os
import ssl
import stat
import sys
import zoneinfo
from collections.abc import Iterable
from pathlib import Path

# Importing the packages keeps them importable: Python finds a top-level package by listing the project's folder.
import accounts
import credentials
import proxy
import strake

# The devices that programs expect. Not all of /dev: for root, disks and memory are files there.
DEVICES = tuple(Path("/dev", name) for name in ("null", "zero", "full", "random", "urandom"))

_SYSTEM = ("/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
_PARTS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec", "share", "pyvenv.cfg")

# Often a link to a file outside /etc, which is replaced whenever the network changes.
_RESOLVER = Path("/etc/resolv.conf")

# <linux/landlock.h>. The numbers of the system calls are the same on every architecture but Alpha and MIPS.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1 << 0
_RULE_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_RIGHTS = {1: (1 << 13) - 1, 2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}  # by the version that brought them
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1

_FOR_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR

_PR_SET_NO_NEW_PRIVS = 38  # <linux/prctl.h>


class _RulesetAttributes(ctypes.Structure):
    """`struct landlock_ruleset_attr`. Older kernels have fewer fields, and accept those they don't know if zero."""

    _fields_ = [
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    ]


class _PathBeneathAttributes(ctypes.Structure):
    """`struct landlock_path_beneath_attr`."""

    _pack_ = 1
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def restrict(*, readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Confine this process, its later threads and its children, for good.

    They may read, list and execute below `readable`, and do everything below `writable` except creating device files.
    Both may name files and folders, and follow symbolic links. Paths that do not exist, or that this user cannot
    reach, are skipped. Sockets and signals work inside the process and its children, and from the outside in.

    Returns False if this system has no Landlock. Raises `OSError` if Landlock fails, and `RuntimeError` if this process
    has other threads, since those would stay unconfined.
    """
    if sys.platform != "linux":
        return False
    abi = _abi()
    if abi == 0:
        return False
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("Confine the process before it starts threads: Landlock would not apply to them.")
    rights = _rights(abi)
    attributes = _RulesetAttributes(handled_access_fs=rights, scoped=_scopes(abi))
    ruleset = _system_call(_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ)
        for path in writable:
            # As root, a device file made in any folder would open the disk or the memory of the machine.
            _allow(ruleset, path, rights & ~(_MAKE_CHAR | _MAKE_BLOCK))
        _forbid_new_privileges()
        _system_call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def code_paths() -> list[Path]:
    """Return what a Python process of Strake reads: the system's programs and settings, Python, the project's code.

    The project's folder itself is not among them, since the data folder may lie in it. Nor is /proc: it shows the
    command lines of all processes and, as root, their environment (CAP_PERFMON is exempt from Landlock's rule for
    tracing) and the memory of the machine (/proc/kcore). Python, Django, gunicorn and psycopg work without it.
    """
    packages = [Path(package.__path__[0]) for package in (accounts, credentials, proxy, strake)]
    project = packages[-1].resolve().parent
    # Not whole prefixes: the project's folder may be one, or be below one.
    prefixes = ("/usr", "/usr/local", sys.prefix, sys.exec_prefix, sys.base_prefix)
    folders = [Path(entry) for entry in sys.path if entry] + [_RESOLVER.resolve().parent]
    paths = [
        *map(Path, _SYSTEM),
        *(Path(prefix, part) for prefix in prefixes for part in _PARTS),
        *(folder for folder in folders if not project.is_relative_to(folder.resolve())),
        *packages,
        project / "templates",
        project / "manage.py",
        *map(Path, zoneinfo.TZPATH),
        *_certificates(),
    ]
    return list(dict.fromkeys(paths))


def _certificates() -> list[Path]:
    """Return the trusted roots of OpenSSL, and the folder of its configuration."""
    found = ssl.get_default_verify_paths()
    return [Path(found.openssl_cafile).parent, *(Path(path) for path in (found.cafile, found.capath) if path)]


def _abi() -> int:
    """Return the version of the kernel's interface, or 0 if it has none, or a seccomp filter hides it."""
    try:
        return _system_call(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        # EOPNOTSUPP: disabled at boot. EPERM: the answer of older container runtimes to calls that they don't know.
        if error.errno in {errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}:
            return 0
        raise


def _rights(abi: int) -> int:
    """Return the file rights of this version of the interface."""
    return sum(rights for version, rights in _RIGHTS.items() if version <= abi)


def _scopes(abi: int) -> int:
    """Return what stays inside the process and its children in this version of the interface."""
    return _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if abi >= 6 else 0


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _FOR_FILES
        attributes = _PathBeneathAttributes(allowed_access=rights, parent_fd=descriptor)
        _system_call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(attributes), 0)
    finally:
        os.close(descriptor)


def _forbid_new_privileges() -> None:
    """Landlock requires it of processes without CAP_SYS_ADMIN: set-user-ID programs would escape their file rights."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")


def _system_call(number: int, *arguments: object) -> int:
    """Make a system call. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    # The arguments are variable, so ctypes would pass an int with 32 bits only.
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in (number, *arguments)]
    result = int(libc.syscall(*wide))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock failed in system call {number}: {os.strerror(code)}")
    return result
