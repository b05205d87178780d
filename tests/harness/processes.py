"""Proxy processes on one database, and connections of which it is known who accepted them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.load import Client, Sample
from tests.support.running import Strake
from tests.support.upstream import eventually


@dataclass(frozen=True)
class Process:
    """A process that forwards. `siblings` are the process ids of those that listen on the same port."""

    pid: int
    address: tuple[str, int]
    siblings: tuple[int, ...]

    def stop(self) -> None:
        """Stop it with SIGSTOP. Its kernel accepts connections and data from then on, and the process nothing."""
        stop(self.pid)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Stop its siblings, so that it accepts every connection made within the context."""
        try:
            for pid in self.siblings:
                stop(pid)
            yield
        finally:
            for pid in self.siblings:
                os.kill(pid, signal.SIGCONT)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


class Pinned(Client):
    """A kept-alive connection to one process."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.address)
        self.process = process
        self.pid = process.pid  # 0 after it had to reconnect, if a sibling may have accepted that

    async def request(
        self, path: str, token: str, *, method: str = "GET", headers: dict[str, str] | None = None
    ) -> Sample:
        if not self.is_open and self.process.siblings:
            self.pid = 0
        return await super().request(path, token, method=method, headers=headers)

    @property
    def is_open(self) -> bool:
        return self._streams is not None and not self._streams[1].is_closing()


async def pin(clients: Sequence[Pinned]) -> None:
    """Connect every client that is not connected to its process."""
    for process in {client.process for client in clients if not client.is_open}:
        with process.alone():
            for client in clients:
                if client.process == process and not client.is_open:
                    await client.request("/livez", "")
                    client.pid = process.pid


@contextmanager
def processes(home: Path, count: int, environment: dict[str, str]) -> Iterator[tuple[Strake, list[Process]]]:
    """Start `count` proxy processes on one database. Yields a Strake for operators' calls, and the processes.

    With PostgreSQL they are the workers of one Strake. On SQLite a Strake has one, so there are several Strakes with
    one data folder, as if somebody had started it twice.
    """
    with ExitStack() as stack:
        if "DATABASE_URL" in environment:
            strake = stack.enter_context(Strake(home, {"WEB_CONCURRENCY": str(count), **environment}))
            pids = strake.workers
            yield strake, [Process(pid, strake.address, tuple({*pids} - {pid})) for pid in pids]
            return
        command = ("manage.py", "serve", "--only=proxy", "--no-link")
        strakes = [
            stack.enter_context(Strake(home, {"STRAKE_RUNTIME": f"{home}-run-{number}", **environment}, command))
            for number in range(count)
        ]
        yield strakes[0], [Process(strake.workers[0], strake.address, ()) for strake in strakes]
