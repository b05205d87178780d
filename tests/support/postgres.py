"""A PostgreSQL cluster made for the tests, with passwords and TLS as in production."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

from tests.support.running import Strake
from tests.support.services import free_port

ROLE = "strake"
SUPERUSER = "postgres"
PASSWORD = "p@ss/w:rd#50%?"  # in a URL, every one of these must be percent-encoded
_MIGRATED = "strake_migrated"


def programs() -> Path | None:
    """The folder of PostgreSQL's server programs, or None. Debian keeps them out of PATH."""
    folders = Path("/usr/lib/postgresql").glob("*/bin")
    installed = [folder for folder in folders if (folder / "initdb").exists()]
    if installed:
        return max(installed, key=lambda folder: int(folder.parent.name))
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


class Cluster:
    """A cluster that listens on a loopback port and on a Unix socket in `folder`.

    Clients log in as `ROLE`, an ordinary role that may create databases, with `PASSWORD` under scram-sha-256.
    `certificate` is the server's, for `host` and localhost. `prefix` is a command that runs a program on another
    machine, whose address is `host`. Then other machines of its network may log in too, and standbys.
    """

    def __init__(
        self, folder: Path, *, host: str = "127.0.0.1", prefix: Sequence[str] = (), **settings: object
    ) -> None:
        found = programs()
        if found is None:
            raise FileNotFoundError("initdb is not installed")
        self.folder = folder
        self.host = host
        self._prefix = prefix
        self.port = free_port()
        self._programs = found
        self._data = folder / "data"
        self._user = unprivileged_user()
        self._has_migrated = False
        # Nothing waits for the disk. A commit is in the system's memory before it returns, so `stop` loses none.
        self._settings = {
            "listen_addresses": host,
            "port": self.port,
            "unix_socket_directories": folder,
            "ssl": "on",
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "32MB",
            **settings,
        }

    @property
    def url(self) -> str:
        return self.url_of("strake")

    def url_of(self, database: str, role: str = ROLE) -> str:
        return f"postgres://{role}:{quote(PASSWORD, safe='')}@{self.host}:{self.port}/{database}"

    @property
    def certificate(self) -> Path:
        return self._data / "server.crt"

    def create(self) -> None:
        """Initialize and start the cluster, and create the database of `url`."""
        self._give_folder()
        password_file = self.folder / "password"
        password_file.write_text(PASSWORD)
        if self._user is not None:
            shutil.chown(password_file, self._user)
        credentials = ["--username", SUPERUSER, "--pwfile", str(password_file), "--auth", "scram-sha-256"]
        self._run("initdb", *credentials, "--no-sync", "--no-instructions")
        password_file.unlink()
        if self._prefix:
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write("host all,replication all samenet scram-sha-256\n")
        self._create_certificate()
        self.start()
        with psycopg.connect(self.url_of("postgres", SUPERUSER), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE ROLE strake LOGIN CREATEDB PASSWORD {}").format(sql.Literal(PASSWORD)))
        self.create_database("strake")

    def create_database(self, name: str, *, template: str = "template1") -> None:
        """Create a database of `ROLE`, as a copy of `template`, to which nobody may be connected."""
        with psycopg.connect(self.url_of("postgres", SUPERUSER), autocommit=True) as connection:
            words = map(sql.Identifier, (name, ROLE, template))
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(*words))

    def create_migrated(self, name: str) -> None:
        """Create a database with Strake's tables: a copy of one, since migrating takes longer than most tests."""
        if not self._has_migrated:
            self.create_database(_MIGRATED)
            with tempfile.TemporaryDirectory() as folder:
                strake = Strake(Path(folder) / "home", {"DATABASE_URL": self.url_of(_MIGRATED)})
                strake.manage("migrate", "-v0", check=True)
            self._has_migrated = True
        self.create_database(name, template=_MIGRATED)

    def create_standby(self, primary: Cluster, *options: str) -> None:
        """Copy `primary`, which runs, with options of pg_basebackup's, and follow it until `promote`."""
        self._give_folder()
        copied = ["--dbname", primary.url_of("", SUPERUSER), "--write-recovery-conf", "--no-sync"]
        self._run("pg_basebackup", *copied, *options)
        self.start()

    def promote(self) -> None:
        self._run("pg_ctl", "promote", "--wait")

    def start(self) -> None:
        self._start(self._settings)

    def start_without_port(self) -> None:
        """Start it on its Unix socket only, and without vacuum, so that nobody but the caller changes anything."""
        self._start({**self._settings, "listen_addresses": "''", "autovacuum": "off"})

    def _start(self, settings: Mapping[str, object]) -> None:
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self._run("pg_ctl", "start", "--wait", "--log", str(self.folder / "log"), "--options", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--mode", "immediate")

    def freeze(self) -> None:
        """Stop every process of the server: it accepts connections and never replies."""
        for pid in self._processes():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self._processes():
            os.kill(pid, signal.SIGCONT)

    def _processes(self) -> list[int]:
        postmaster = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return [postmaster, *map(int, children)]

    def _create_certificate(self) -> None:
        command = (
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
            f" -addext subjectAltName=DNS:localhost,IP:{self.host} -keyout server.key -out server.crt"
        )
        self._execute(*command.split(), folder=self._data)
        (self._data / "server.key").chmod(0o600)

    def _give_folder(self) -> None:
        self.folder.chmod(0o755)  # for clients of the Unix socket
        if self._user is not None:
            shutil.chown(self.folder, self._user)

    def _run(self, program: str, *arguments: str) -> None:
        self._execute(str(self._programs / program), "--pgdata", str(self._data), *arguments, folder=self.folder)

    def _execute(self, *command: str, folder: Path) -> None:
        user = self._user
        if self._prefix and user is not None:  # which takes root's rights
            command = (*self._prefix, "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command)
            user = None
        subprocess.run(
            command,
            cwd=folder,
            user=user,
            extra_groups=None if user is None else [],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=300,
        )


@contextmanager
def cluster(**settings: Any) -> Iterator[Cluster]:
    """A running cluster with these server settings, removed afterwards.

    Its folder is not pytest's, which only root may enter when the tests run as root.
    """
    with tempfile.TemporaryDirectory(prefix="strake-postgres-") as folder:
        created = Cluster(Path(folder), **settings)
        created.create()
        try:
            yield created
        finally:
            created.stop()


def unprivileged_user() -> str | None:
    """The user to run the server as, or None for the current one. PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return None
    return "postgres" if any(user.pw_name == "postgres" for user in pwd.getpwall()) else "nobody"
