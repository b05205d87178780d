"""The data folder of an installation on one machine, readable by its owner only.

    vault/   the master keys and the key that signs checkpoints, for the process that forwards and for commands
    data/    the database, the secret key, and the demo provider's port
    run/     the sockets between Strake's processes

Importing the settings creates nothing. manage.py calls `prepare` before, because the settings read two of the files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from strake.env import LOOPBACK_HOSTS, Environment
from strake.processes import runtime

_DEFAULT = Path(__file__).resolve().parent.parent / ".strake"
_DATABASE = "strake.sqlite3"
# Every file and its folder. In older versions, all of them were directly in the data folder. The database moves first,
# because another process may have it open.
_FOLDERS = {_DATABASE: "data", "master-keys.json": "vault", "secret-key": "data", "demo-port": "data"}
_OF_MANY_MACHINES = ("DATABASE_URL", "DATABASE_URL_FILE", "REDIS_URL", "REDIS_URL_FILE")
_KEY_SOURCES = ("STRAKE_MASTER_KEYS_FILE", "STRAKE_MASTER_KEYS_COMMAND", "STRAKE_MASTER_KEYS")
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def is_embedded(env: Environment) -> bool:
    """True if data and secrets are in STRAKE_HOME: on loopback, and on one machine for others. Raises as `env` does."""
    return is_loopback(env) or bool(env.present("STRAKE_HOME") and not env.present(*_OF_MANY_MACHINES))


def is_loopback(env: Environment) -> bool:
    """True if STRAKE_BASE_URL is a loopback address. Raises `ImproperlyConfigured`."""
    return env.origin("STRAKE_BASE_URL", "http://localhost").hostname in LOOPBACK_HOSTS


def prepare(new_master_keys: Callable[[], str], *, init: bool = False) -> None:
    """Create the data folder and its missing files if the environment asks for an installation on one machine.

    Call it before Django reads the settings. `new_master_keys` returns the document of a new keyring. It is an argument
    because the settings import this module, also in processes that must not load the keyring. On loopback a new folder
    may be created at any time, elsewhere only with `init`: a wrong STRAKE_HOME, or a disk that is not mounted, would
    look like an empty installation. Raises `ImproperlyConfigured`.
    """
    env = Environment()
    if not is_embedded(env):
        return
    data_dir = DataDir.configured(env)
    if data_dir.is_new and not init and not is_loopback(env):
        raise ImproperlyConfigured(
            f"STRAKE_HOME is {data_dir.path}, which holds neither master keys nor a database. If that is the wrong "
            "folder, or its disk is not mounted, correct that. To restore a backup, put its keyring in place first, as "
            f"{data_dir.master_keys}. Only for a new installation, run: manage.py serve --init"
        )
    data_dir.prepare(None if env.present(*_KEY_SOURCES) else new_master_keys)
    runtime.located(Path(env.text("STRAKE_RUNTIME", str(data_dir.run))), data_dir.path)


class DataDir:
    """The folder that STRAKE_HOME names. Constructing the object touches nothing.

    Every method and property raises `ImproperlyConfigured` if the folder cannot be created, read or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.vault = self.path / "vault"
        self.data = self.path / "data"
        self.run = self.path / "run"

    @classmethod
    def configured(cls, env: Environment) -> DataDir:
        """Return the folder that STRAKE_HOME names, by default .strake beside manage.py."""
        return cls(env.text("STRAKE_HOME", str(_DEFAULT)))

    @property
    def database(self) -> Path:
        return self._place(_DATABASE)

    @property
    def master_keys(self) -> Path:
        return self._place("master-keys.json")

    @property
    def audit_key(self) -> Path:
        return self.vault / "audit-key"  # created by proxy.audit_key

    @property
    def secret_key(self) -> Path:
        return self._place("secret-key")

    @property
    def demo_port(self) -> Path:
        return self._place("demo-port")

    @property
    def is_new(self) -> bool:
        """True if the folder holds neither master keys nor a database, so that `prepare` would create master keys."""
        with self._errors_explained():
            return not (_exists(self.master_keys) or _exists(self.database))

    @property
    def is_unprepared(self) -> bool:
        """True if nothing has been created in the folder yet, or `prepare` would move files of an older version."""
        return (self.is_new and not self.data.exists()) or self.is_older

    @property
    def is_older(self) -> bool:
        """True if `prepare` would move files of an older version. Until then, the properties name their old places."""
        with self._errors_explained():
            return any(self._left_behind(name) for name in _FOLDERS)

    def prepare(self, new_master_keys: Callable[[], str] | None) -> None:
        """Create the folder and the files missing in it, except the database, which `migrate` creates.

        Without `new_master_keys`, the master keys are somewhere else. Moves the files of an older version to their
        folders first. If that is interrupted, the next call continues.
        """
        with self._errors_explained():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(self.path):
                for folder in (self.path, self.vault, self.data, self.run):
                    folder.mkdir(mode=0o700, exist_ok=True)
                    folder.chmod(0o700)
                self._move_older_files()
                _create_once(self.secret_key, lambda: secrets.token_urlsafe(50))
                _create_once(self.demo_port, lambda: str(_free_port()))
                # Beside an existing database, a new master key would hide the loss of the old one: Strake would start,
                # and no stored key would open. The system check credentials.E001 reports the missing file instead.
                if self.is_new and new_master_keys is not None:
                    _create_once(self.master_keys, new_master_keys)

    def variables(self, env: Environment) -> dict[str, str]:
        """The variables that a Strake with PostgreSQL needs to use the files of this folder, if `env` lacks them."""
        places: dict[tuple[str, ...], Path] = {
            ("STRAKE_RUNTIME",): self.run,
            _KEY_SOURCES: self.master_keys,
            ("STRAKE_AUDIT_KEY_FILE",): self.audit_key,
            ("STRAKE_SECRET_KEY_FILE", "STRAKE_SECRET_KEY"): self.secret_key,
        }
        return {names[0]: str(path) for names, path in places.items() if not env.present(*names)}

    @property
    def secret_key_advice(self) -> str:
        """Where the secret key of a deployed Strake comes from: from here, if it was on one machine before."""
        used = self.data / "secret-key"
        if os.access(used, os.R_OK):
            return f"This installation has one. Set STRAKE_SECRET_KEY_FILE={used}"
        return "Create one with: python3 -c 'import secrets; print(secrets.token_urlsafe(50))'"

    def read(self, path: Path) -> str:
        """Return the text of one of the files above, or "" if the file does not exist."""
        try:
            text = path.read_text(encoding="ascii").strip()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            raise ImproperlyConfigured(f"{path} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            text = ""
        if not text:
            raise ImproperlyConfigured(
                f"{path} is damaged. Restore it from your backup, or delete it and Strake creates a new one."
            )
        return text

    def _place(self, name: str) -> Path:
        """Return where a file belongs, or where an older version left it if it has not been moved yet."""
        new = self.path / _FOLDERS[name] / name
        with self._errors_explained():
            return self.path / name if self._left_behind(name) and not _exists(new) else new

    def _left_behind(self, name: str) -> bool:
        """True if an older version's file is still directly in the folder. The link that replaces it does not count."""
        old = self.path / name
        return _exists(old) and not (old.is_symlink() and old.readlink() == Path(_FOLDERS[name], name))

    def _move_older_files(self) -> None:
        self._refuse_two_of_a_kind()
        for name in filter(self._left_behind, _FOLDERS):
            with _exclusively(self.path / name) if name == _DATABASE else contextlib.nullcontext():
                _move(self.path, name)

    def _refuse_two_of_a_kind(self) -> None:
        """Refuse a folder in which the files of two installations may have met, such as after restoring a backup."""
        for name in filter(self._left_behind, _FOLDERS):
            if _exists(new := self.path / _FOLDERS[name] / name):
                raise ImproperlyConfigured(
                    f"{self.path / name} and {new} both exist, and Strake cannot tell which one you need. "
                    f"Stop Strake, move the other one out of {self.path}, and start again."
                )
        # SQLite would read a log that it finds beside a database, even if it was written for another one.
        for log in _stray_logs(self.data if self._left_behind(_DATABASE) else self.path):
            raise ImproperlyConfigured(
                f"{log} may hold the newest rows of a database that is not beside it. Stop Strake, move the log to its "
                f"database, or out of {self.path} if you don't need it, and start again."
            )

    @contextlib.contextmanager
    def _errors_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ImproperlyConfigured(
                f"STRAKE_HOME is {self.path}, which cannot be used: {error.strerror}. "
                "Make the folder writable for this user, or set STRAKE_HOME to another folder."
            ) from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Exclude every other process that prepares the folder. The kernel releases the lock of a killed process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _exclusively(database: Path) -> Iterator[None]:
    """Put everything into the database file itself, without a log beside it, and keep other processes from opening it.

    The next connection turns the write-ahead log on again. Raises `ImproperlyConfigured`.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=1, isolation_level=None)
        ) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")  # refused while another process has the database open
            connection.execute("BEGIN EXCLUSIVE")
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            if mode != "delete":
                raise _in_use(database)
            yield
    except sqlite3.Error as error:
        code = error.sqlite_errorcode & 0xFF
        if code in _BUSY:
            raise _in_use(database) from None
        advice = " Restore it from your backup." if code in _DAMAGED else ""
        raise ImproperlyConfigured(f"{database} cannot be used: {error}.{advice}") from None


def _in_use(database: Path) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"Stop the running Strake first: another process uses {database}, which this version moves to "
        f"{database.parent / _FOLDERS[_DATABASE]}."
    )


def _move(home: Path, name: str) -> None:
    """Move a file to its folder and leave a link, for backup scripts and servers of the older version.

    Without the link, SQLite would create an empty database for them. If the file is itself a link, it still leads to
    the same file afterwards.
    """
    old, new = home / name, home / _FOLDERS[name] / name
    if old.is_symlink():
        link = _draft(old)
        link.symlink_to(home / old.readlink())
        link.rename(old)
    old.rename(new)
    old.symlink_to(Path(_FOLDERS[name], name))
    _sync(new.parent)
    _sync(home)


def _stray_logs(folder: Path) -> list[Path]:
    """The logs of a database that is not in the folder itself."""
    logs = [folder / f"{_DATABASE}{suffix}" for suffix in ("-wal", "-journal")]
    database = folder / _DATABASE
    return [] if _exists(database) and not database.is_symlink() else [log for log in logs if _exists(log)]


def _create_once(path: Path, content: Callable[[], str]) -> None:
    """Create `path` with the returned text unless it exists. A reader never sees half a file."""
    if _exists(path):
        return
    draft = _draft(path)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(content() + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    _sync(path.parent)


def _draft(path: Path) -> Path:
    """A free name beside `path`. Removes what a killed process left there."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    return draft


def _sync(folder: Path) -> None:
    """Wait until the names in the folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exists(path: Path) -> bool:
    """True also for a link that leads nowhere, such as to a disk that is not mounted. Raises `OSError`."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _free_port() -> int:
    """A free port of loopback, or any number if this machine has no 127.0.0.1, on which the demo provider listens."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError:
            return secrets.randbelow(10_000) + 20_000
        port: int = probe.getsockname()[1]
        return port
