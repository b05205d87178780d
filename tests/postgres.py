"""A PostgreSQL server of a test's own, which it may stop, freeze and start again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.conftest import free_port


def programs() -> Path | None:
    """The folder of PostgreSQL's server programs; Debian keeps them out of PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda path: int(path.parent.name))


class Cluster:
    """A cluster on a loopback port, without passwords."""

    def __init__(self, folder: Path) -> None:
        found = programs()
        if found is None:
            raise FileNotFoundError("initdb is not installed")
        self._programs = found
        self._folder = folder
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.getuid() == 0 else None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"postgres://postgres@127.0.0.1:{self.port}/strake"

    def create(self) -> None:
        self._folder.mkdir()
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._run("initdb", "--pgdata", ".", "--auth", "trust", "--username", "postgres", "--no-sync")
        self.start()
        with psycopg.connect(self.url.replace("/strake", "/postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE strake")

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "start", "--pgdata", ".", "--wait", "--log", "log", "--options", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--pgdata", ".", "--mode", "immediate")

    def freeze(self) -> None:
        """Stop every process of the server: it takes connections and answers nothing."""
        for pid in self._processes():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self._processes():
            os.kill(pid, signal.SIGCONT)

    def _processes(self) -> list[int]:
        postmaster = int((self._folder / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return [postmaster, *map(int, children)]

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self._folder,
            user=self._user,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A running cluster in a new folder, stopped afterwards."""
    made = Cluster(folder)
    made.create()
    try:
        yield made
    finally:
        made.stop()
