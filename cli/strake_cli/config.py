"""The file of this command line: for each server its access token and short-lived bearer tokens.

`$XDG_CONFIG_HOME/strake/config.json`, by default `~/.config/strake/config.json`, with mode 0600.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from strake_cli.errors import CliError, NotSignedIn

DEFAULT_SERVER = "http://localhost:{port}"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def folder() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "strake"


def read() -> dict[str, Any]:
    """Return what is stored. Raises `CliError` if the file is damaged, or others may read it."""
    path = folder() / "config.json"
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise CliError(f"Others may read {path}. Run: chmod 600 {path}")
            data = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CliError(f"{path} cannot be read: {type(error).__name__}. Delete it and sign in again.") from None
    return data if isinstance(data, dict) else {}


@contextmanager
def changed() -> Iterator[dict[str, Any]]:
    """Yield what is stored, and store it as it is afterwards. Two processes do not overwrite each other's changes."""
    place = folder()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(place / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        data = read()
        yield data
        descriptor, name = tempfile.mkstemp(dir=place, prefix=".config-")  # 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(data, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, place / "config.json")
        except BaseException:
            os.unlink(name)
            raise


def server(chosen: str | None) -> str:
    """The address of Strake: chosen, of STRAKE_URL, of the last sign-in, or of a Strake on this machine."""
    address = chosen or os.environ.get("STRAKE_URL") or read().get("server")
    return normalise(address) if address else DEFAULT_SERVER.format(port=local_port())


def local_port() -> str:
    """The port of `make run`. The launcher of a checkout follows PORT, as `make run` does."""
    return (os.environ.get("PORT") if os.environ.get("STRAKE_MANAGE") else None) or "8000"


def normalise(address: str) -> str:
    """Return an origin such as https://strake.example.org. Raises `CliError` for anything else, and for plain http."""
    if "://" not in address:
        host = urlsplit(f"//{address}").hostname
        address = f"{'http' if host in LOOPBACK else 'https'}://{address}"
    parts = urlsplit(address.rstrip("/:"))
    try:
        is_origin = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_origin = False
    if not is_origin or parts.username or parts.path or parts.query or parts.fragment:
        raise CliError("Give the address of Strake as https://strake.example.org, without a path.", "invalid_server")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise CliError("Use https: over plain http, others could read your access token.", "invalid_server")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def access_token(address: str) -> str:
    """The access token for a server: STRAKE_ACCESS_TOKEN, or the stored one. Raises `NotSignedIn`."""
    token = os.environ.get("STRAKE_ACCESS_TOKEN") or read().get("servers", {}).get(address, {}).get("access_token")
    if not token:
        raise NotSignedIn(f"You are not signed in to {address}. Run: strake login {address}", "not_signed_in")
    return str(token)
