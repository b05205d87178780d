"""The folder of the sockets between the two halves, and who may connect to them.

The settings import this module, so it imports little.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import socket
import stat
import struct
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from django.core.exceptions import ImproperlyConfigured

Half = Literal["proxy", "web"]

_MAX_PATH = 100  # bytes in the path of a Unix socket: 103 fit on macOS, 107 on Linux
_RECORD = "runtime"


@dataclass(frozen=True, slots=True)
class Runtime:
    """The folder of the sockets. Constructing the object touches nothing.

    The folder is private (mode 0700) if one user runs both halves. Otherwise it is shared: an administrator creates it
    and one folder for each half, with a group that both halves belong to.
    """

    folder: Path

    @property
    def web_socket(self) -> Path:
        return self.folder / "web" / "web.sock"

    @property
    def proxy_socket(self) -> Path:
        return self.folder / "proxy" / "proxy.sock"

    @property
    def wrap_socket(self) -> Path:
        return self.folder / "proxy" / "wrap.sock"

    @property
    def socket_mode(self) -> int:
        """The mode for sockets: 0600, or 0660 in a shared folder, whose group the sockets inherit."""
        try:
            return 0o660 if self.folder.stat().st_mode & stat.S_IRWXG else 0o600
        except FileNotFoundError:
            return 0o600

    def prepare(self, half: Half) -> None:
        """Create the folder of this half in a private runtime folder, or check that of a shared one.

        Raises `ImproperlyConfigured`.
        """
        own = self.folder / half
        try:
            is_safe = self._is_safe(own)
        except OSError as error:
            raise ImproperlyConfigured(
                f"STRAKE_RUNTIME is {self.folder}, but {error.filename} cannot be used: {error.strerror}. "
                "Set STRAKE_RUNTIME to a folder that this user can create."
            ) from None
        if not is_safe:
            raise ImproperlyConfigured(
                f"STRAKE_RUNTIME is {self.folder}, where other users could reach or replace the sockets. If one user "
                f"runs Strake, that folder and {own} must belong to that user (now user id {os.geteuid()}), with mode "
                "0700: choose a folder that does not exist yet. If two users do, create it with systemd-tmpfiles: "
                f"d {self.folder} 2750 root GROUP, d {self.folder}/web 2750 WEB-USER GROUP, "
                f"d {self.folder}/proxy 2750 PROXY-USER GROUP, with a group that has both users."
            )

    def _is_safe(self, own: Path) -> bool:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.folder.lstat()
        if _is_private(found):
            own.mkdir(mode=0o700, exist_ok=True)
            return _is_private(own.lstat())
        if not _is_shared(found, {0, os.geteuid()}) or not own.exists():
            return False
        return _is_shared(own.lstat(), {os.geteuid()}) and own.lstat().st_gid == found.st_gid


def located(folder: Path, home: Path, *, create: bool = True) -> Runtime:
    """Return the runtime in `folder`, or if that path is too long for sockets, in a folder for temporary files.

    The file `runtime` in the data folder `home` records that other folder, so every process finds the same one. It is
    replaced unless it is a private folder of this user. Without `create`, nothing is created or replaced, and the
    result without a usable record is the runtime in `folder`.

    Raises `ImproperlyConfigured` if no folder is short enough, or if `home` cannot be used.
    """
    runtime = Runtime(folder.absolute())
    if _fits(runtime):
        return runtime
    record = home / _RECORD
    try:
        descriptor = os.open(record, os.O_RDWR | os.O_CREAT if create else os.O_RDONLY, 0o600)
    except OSError as error:
        if not create:
            return runtime
        raise ImproperlyConfigured(
            f"The path of the sockets in {runtime.folder} would be too long, and {record} cannot be written: "
            f"{error.strerror}. Set STRAKE_RUNTIME to a folder with a shorter path, such as /run/strake."
        ) from None
    with os.fdopen(descriptor, "r+b" if create else "rb") as file:
        # The file is never replaced, so its lock makes processes that start at the same time agree.
        fcntl.flock(file, fcntl.LOCK_EX if create else fcntl.LOCK_SH)
        recorded = _recorded(file.read())
        if recorded is not None or not create:
            return recorded or runtime
        made = _temporary()
        file.seek(0)
        file.truncate()
        file.write(os.fsencode(made.folder))
    return made


def _recorded(content: bytes) -> Runtime | None:
    """Return the runtime in a recorded folder, if that is still safe to use."""
    runtime = Runtime(Path(os.fsdecode(content)))
    try:
        found = runtime.folder.lstat()
    except (OSError, ValueError):  # ValueError: a null byte
        return None
    return runtime if runtime.folder.is_absolute() and _is_private(found) and _fits(runtime) else None


def _temporary() -> Runtime:
    try:
        runtime = Runtime(Path(tempfile.mkdtemp(prefix="strake-")).absolute())
    except OSError as error:
        raise ImproperlyConfigured(
            f"No folder for sockets can be created in {tempfile.gettempdir()}: {error.strerror}. "
            "Set STRAKE_RUNTIME to a folder with a short path, such as /run/strake."
        ) from None
    if not _fits(runtime):
        runtime.folder.rmdir()
        raise ImproperlyConfigured(
            f"The path of sockets in {tempfile.gettempdir()} would be too long. "
            "Set STRAKE_RUNTIME to a folder with a short path, such as /run/strake."
        )
    return runtime


def _fits(runtime: Runtime) -> bool:
    sockets = (runtime.web_socket, runtime.proxy_socket, runtime.wrap_socket)
    return max(len(os.fsencode(path)) for path in sockets) <= _MAX_PATH


def _is_private(found: os.stat_result) -> bool:
    """True for a folder that only this user can use. A symbolic link is none."""
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and found.st_mode & 0o777 == 0o700


def _is_shared(found: os.stat_result, owners: set[int]) -> bool:
    """True for a folder with mode 2750 and a group of this process: what is created in it belongs to that group."""
    groups = {os.getegid(), *os.getgroups()}
    return found.st_mode == stat.S_IFDIR | 0o2750 and found.st_uid in owners and found.st_gid in groups


# --- Who may connect -----------------------------------------------------------------------------------------------


def allowed_uids(web_user: str) -> frozenset[int]:
    """Return our user id and that of `web_user`, if it names one. Raises `ImproperlyConfigured`."""
    ours = os.geteuid()
    if not web_user:
        return frozenset({ours})
    try:
        return frozenset({ours, pwd.getpwnam(web_user).pw_uid})
    except KeyError:
        raise ImproperlyConfigured(
            f"STRAKE_WEB_USER is {web_user}, but this machine has no such user. Create it, or correct the name."
        ) from None


def peer_uid(sock: socket.socket) -> int | None:
    """Return the user id of the process at the other end, when it connected.

    Returns None if the socket is no connected Unix socket, or if this system does not tell.
    """
    if sock.family != socket.AF_UNIX:
        return None
    try:
        if sys.platform == "linux":
            _, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        elif sys.platform == "darwin":
            # <sys/un.h>: SOL_LOCAL, LOCAL_PEERCRED. <sys/ucred.h>: struct xucred begins with version and user id.
            version, uid = struct.unpack_from("II", sock.getsockopt(0, 1, 76))
            if version != 0:
                return None
        else:
            return None
    except OSError:
        return None
    return None if uid == 0xFFFFFFFF else int(uid)  # -1: nobody is connected
