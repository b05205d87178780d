"""The files of ~/.postgresql, which both PostgreSQL drivers look for: TLS certificates and keys.

HOME can be another user's, as after `setpriv`. A file there that this user may not read is as good as none. Otherwise
asyncpg would not connect, and libpq would not either, or with `sslmode=prefer` without TLS.
"""

from __future__ import annotations

import os
from pathlib import Path

_FILES = {"sslcert": "postgresql.crt", "sslrootcert": "root.crt"}
# It tells libpq that there is no such file. Nobody can create it, not even root.
NO_FILE = f"{os.devnull}/none"


def is_readable(path: Path) -> bool:
    """False only if the file may exist and this user may not read it."""
    try:
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        return True  # both drivers go on without it
    except OSError:
        return False
    return True


def libpq_options() -> dict[str, str]:
    """Options that keep libpq from what it cannot read. It goes on by itself without the other files."""
    try:
        folder = Path.home() / ".postgresql"
    except RuntimeError:  # no home folder
        return {}
    return {option: NO_FILE for option, name in _FILES.items() if not is_readable(folder / name)}
