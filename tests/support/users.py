"""Run commands as other users, even if the interpreter lies in a home folder that they may not enter."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# In a mount namespace of its own, each folder that others may not enter is covered by an empty one, in which the
# paths that the command needs appear again. PATHS and COVERED are separated by line breaks.
_SCRIPT = r"""
set -eu
IFS='
'
if [ -n "$COVERED" ]; then
    mount --make-rprivate /
    mount -t tmpfs tmpfs /mnt
    number=0
    for path in $PATHS; do
        number=$((number + 1)); mkdir "/mnt/$number"; mount --bind "$path" "/mnt/$number"
    done
    for folder in $COVERED; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
    number=0
    for path in $PATHS; do
        number=$((number + 1)); mkdir -p "$path"; mount --bind "/mnt/$number" "$path"
    done
fi
unset PATHS COVERED IFS
exec setpriv --reuid="$0" --regid="$1" --groups="$2" "${@:3}"
"""


def prefix(user: str, group: str, groups: Iterable[str]) -> list[str]:
    """What to put before a command to run it as `user`, with this environment and in the same process. Needs root."""
    needed = sorted({Path(sys.base_prefix), Path(sys.prefix), ROOT})
    covered = sorted({folder for path in needed for folder in path.parents if not folder.stat().st_mode & 0o001})
    paths = [path for path in needed if set(path.parents) & set(covered)]
    settings = [f"PATHS={chr(10).join(map(str, paths))}", f"COVERED={chr(10).join(map(str, covered))}"]
    return ["env", *settings, "unshare", "--mount", "bash", "-c", _SCRIPT, user, group, ",".join(groups)]
