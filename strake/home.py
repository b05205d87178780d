"""The data folder of the embedded default: secrets made on first start, readable by their owner only."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from credentials import keyring


class Home:
    """`$STRAKE_HOME`. Making the object touches nothing; `prepare` creates the folder and what is missing in it.

    Raises `ImproperlyConfigured` where the folder cannot be made, written or trusted.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()
        self.database = self.path / "strake.sqlite3"
        self.master_keys = self.path / "master-keys.json"
        self.secret_key = self.path / "secret-key"
        self.demo_port = self.path / "demo-port"

    def prepare(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            self._keep(self.secret_key, lambda: secrets.token_urlsafe(50))
            self._keep(self.demo_port, lambda: str(_free_port()))
            if not self.database.exists():
                # Beside an existing database a fresh key would start cleanly and leave every stored key
                # unopenable. There, a missing file is for the system check of the keyring to report.
                self._keep(self.master_keys, keyring.new_document)
        except OSError as error:
            raise ImproperlyConfigured(
                f"STRAKE_HOME is {self.path}, which cannot be used: {error.strerror}. "
                "Make the folder writable for this user or set STRAKE_HOME to another one."
            ) from None

    def read(self, path: Path) -> str:
        """The text of one of the files above. Raises `ImproperlyConfigured`."""
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError as error:
            raise ImproperlyConfigured(f"{path} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            text = ""
        if not text:
            raise ImproperlyConfigured(
                f"{path} is damaged. Restore it from your backup, or delete it: it is made anew."
            )
        return text

    def _keep(self, path: Path, make: Callable[[], str]) -> None:
        """Create `path` with what `make` returns unless it exists. Two processes that race agree on one content."""
        if path.exists():
            return
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(make() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # fails if another process was first, and never shows half a file
        except FileExistsError:
            pass
        finally:
            draft.unlink()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
