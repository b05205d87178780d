"""Stop a proxy process with SIGSTOP while access ends, and send it requests before and after the call returned.

Its kernel accepts and keeps them. When the process goes on, it finds both kinds at once, and perhaps what it has asked
the database before it was stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from tests.harness.history import Attempt, Report, Value
from tests.harness.places import KINDS, Changer, Place, changing, connect_places
from tests.harness.processes import Pinned, Process, pin
from tests.support.running import Strake

CALLERS = 4  # which keep the process busy until it stops
WAITING = 4  # requests before the call, and as many after it
MAX_BUSY_SECONDS = 0.02
_KINDS = [kind for kind in KINDS if kind != "issue_for"]  # no call ends the access of a token that runs out


async def run(strake: Strake, known: Sequence[Process], upstream: str, repetitions: int, *, seed: int = 1) -> Report:
    """Stop each process in turn, while access ends in each way. `report.waited` counts the requests after the call."""
    chooser, report, started = random.Random(seed), Report(), time.monotonic()
    async with changing(strake, (), report) as changer:
        place, *_ = await connect_places(changer, upstream, 1, name="stopped")
        # One line for each process, and more to the one that is stopped.
        others = {process: Pinned(process) for process in known}
        clients = {process: [Pinned(process) for _ in range(CALLERS + 2 * WAITING)] for process in known}
        for number in range(repetitions):
            process = known[number % len(known)]
            await pin([*clients[process], *others.values()])
            # A value that was refused before may be refused without a look-up.
            await changer.call(place, "rotate")
            kind = _KINDS[number // len(known) % len(_KINDS)]
            beside = [client for other, client in others.items() if other != process]
            await _stop_once(strake, changer, place, kind, clients[process], beside, chooser, report)
        for client in (*others.values(), *(client for group in clients.values() for client in group)):
            await client.close()
    report.seconds = time.monotonic() - started
    return report


async def _stop_once(
    strake: Strake,
    changer: Changer,
    place: Place,
    kind: str,
    clients: list[Pinned],
    beside: list[Pinned],
    chooser: random.Random,
    report: Report,
) -> None:
    value, process = place.value, clients[0].process
    callers, early, late = clients[:CALLERS], clients[CALLERS:-WAITING], clients[-WAITING:]
    stopping = asyncio.Event()

    async def keep_calling(client: Pinned) -> None:
        while not stopping.is_set():
            await _call(client, value, report)

    tasks = [asyncio.create_task(keep_calling(client)) for client in callers]
    await asyncio.gather(*(_call(client, value, report) for client in (*early, *late, *beside)))
    await asyncio.sleep(chooser.random() * MAX_BUSY_SECONDS)
    process.stop()
    stopping.set()
    try:
        while is_writing(strake):  # the call would wait for the stopped process
            process.resume()
            await asyncio.sleep(0.001)
            process.stop()
        tasks += [asyncio.create_task(_call(client, value, report)) for client in early]
        await asyncio.sleep(0)  # now they are sent
        done = await changer.call(place, kind)
        tasks += [asyncio.create_task(_call(client, value, report)) for client in (*late, *beside)]
        await asyncio.sleep(0)
        if done:
            report.waited += len(late)
    finally:
        process.resume()
    await asyncio.gather(*tasks)
    await changer.give_back(place, kind if done else "delete")


async def _call(client: Pinned, value: Value, report: Report) -> None:
    sample = await client.request(value.path, value.token)
    report.attempts.append(Attempt.of(value, client.process.pid, sample))


def is_writing(strake: Strake) -> bool:
    """Whether somebody holds the write lock of an SQLite database."""
    for database in (strake.home / "data").glob("*.sqlite3"):
        with contextlib.closing(sqlite3.connect(Path(database), timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            connection.execute("ROLLBACK")
    return False
