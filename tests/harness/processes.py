"""Proxy processes on one database, and connections of which it is known who accepted them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.load import Client
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
        _stop(self.pid)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Stop its siblings, so that it accepts every connection made within the context.

        Yields False, and stops nobody, while a sibling is alone.
        """
        with Path(tempfile.gettempdir(), f"strake-alone-{self.address[1]}").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            try:
                for pid in self.siblings:
                    _stop(pid)
                yield True
            finally:
                for pid in self.siblings:
                    os.kill(pid, signal.SIGCONT)


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


class Pinned(Client):
    """A kept-alive connection to one process, once it is pinned."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.address)
        self.process = process

    async def pin(self) -> None:
        """Connect to the process, unless this is connected."""
        while self._streams is None or self._streams[1].is_closing():
            with self.process.alone() as is_alone:
                if is_alone:
                    await self.request("/livez", "")
                    return
            await asyncio.sleep(0.001)


async def pin(clients: Sequence[Pinned]) -> None:
    for client in clients:
        await client.pin()


@contextmanager
def processes(home: Path, count: int, environment: Mapping[str, str]) -> Iterator[tuple[Strake, list[Process]]]:
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
