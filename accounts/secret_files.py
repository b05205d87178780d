"""Who may read a file that holds a secret: its owner, and the group that Strake has to itself.

The settings import this module, also in processes that must not load models.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

CREDENTIALS = Path("/run/credentials")  # where systemd puts those of each unit, for its user only
CONTAINER_SECRETS = Path("/run/secrets")  # where Docker and Podman put those of one container, with mode 0444


def exposure(path: Path, found: os.stat_result, *, in_container: bool = False) -> str:
    """Return who else may read or write a secret file and what to do about it, or "".

    Kubernetes gives a mounted Secret to root and to a group of the container (`fsGroup`), with mode 0440. Such a file
    is fine if the group is one of this process and no other account belongs to it. With `in_container`, a secret of a
    container may be readable by everybody in it.
    """
    if in_container and path.is_relative_to(CONTAINER_SECRETS) and not found.st_mode & 0o033:
        return ""
    if not stat.S_ISREG(found.st_mode) or not found.st_mode & 0o077:
        return ""
    if found.st_mode & 0o037:
        return (
            f"Other users of this machine can read or write {path}. Run: chmod 600 {path} (in Kubernetes: "
            "defaultMode 0440 and fsGroup)"
        )
    if path.is_relative_to(CREDENTIALS):
        return ""  # its mode shows the unit's own right to read as one of the group
    if found.st_gid not in {os.getegid(), *os.getgroups()}:
        return f"Others can read {path}: its group is none of this process. Run: chmod 600 {path}"
    if others := _others_in(found.st_gid):
        return f"Other members of its group ({', '.join(others[:3])}) can read {path}. Run: chmod 600 {path}"
    return ""


def _others_in(gid: int) -> list[str]:
    """The accounts of a group, except root and the one that this process runs as."""
    import grp
    import pwd

    try:
        named = grp.getgrgid(gid).gr_mem
    except KeyError:
        named = []
    accounts = [account for account in pwd.getpwall() if account.pw_gid == gid or account.pw_name in named]
    return [account.pw_name for account in accounts if account.pw_uid not in {0, os.geteuid()}]
