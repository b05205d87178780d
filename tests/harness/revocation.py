"""Try to get a request accepted whose first byte was sent after the call that ended its access has returned.

    python -m tests.harness.revocation [--requests 100000] [--processes 4] [--database postgresql]

Clients keep connections to every proxy process and use tokens with and without access, while another process revokes
and rotates tokens, lets them expire, pauses and deletes endpoints, suspends and erases their owners, replaces keys and
narrows limits. Afterwards each response is compared with what its token was good for when the request was sent
(linearizability). Then processes are stopped while access ends, and the store goes away while it does. Exits with 1 if
a request was accepted or refused wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import uvloop

from tests.harness import outage, stopped
from tests.harness.access import respond
from tests.harness.history import REFUSED, Attempt, Report
from tests.harness.places import KINDS, Changer, Place, changing, connect_places
from tests.harness.processes import Pinned, Process, pin, processes
from tests.harness.stores import DroppedConnections, Outage, ReplacedFile, Restarted, RestoredCluster, RestoredOnline
from tests.support import postgres
from tests.support.postgres import Cluster
from tests.support.running import Strake
from tests.support.upstream import Upstream

PLACES = 8
CLIENTS = 4  # to each process
RECENT_VALUES = 4  # of a token, which clients still try
LAST_VALUE = 0.9  # the share of requests with the last value of a token
# The share of requests that are known to be refused. After ten refusals a token is not looked up for a second.
REFUSED_AGAIN = 0.1
PAUSE_SECONDS = 0.1  # at most, between two changes of a place


async def run(strake: Strake, known: list[Process], upstream: str, requests: int, *, seed: int = 1) -> Report:
    """Send at least `requests` requests, and go on until there was a change of each kind."""
    chooser, report = random.Random(seed), Report()
    clients = [Pinned(process) for process in known for _ in range(CLIENTS)]
    await pin(clients)
    async with changing(strake, known, report) as changer:
        places = await connect_places(changer, upstream, PLACES, name="changed")
        started, enough = time.monotonic(), asyncio.Event()
        kinds = chooser.sample(list(KINDS), len(KINDS))
        changes = []
        for number, place in enumerate(places):
            first = number * len(kinds) // len(places)
            order = kinds[first:] + kinds[:first]
            changes.append(asyncio.create_task(_keep_changing(changer, place, order, chooser, enough)))
        calls = [asyncio.create_task(_keep_calling(client, places, chooser, report, enough)) for client in clients]
        try:
            while len(report.attempts) < requests or not set(KINDS) <= set(report.changes):
                done, _ = await asyncio.wait((*changes, *calls), timeout=0.05)
                for task in done:
                    task.result()
        finally:
            # A change that is on its way takes place, so that it must be in the history.
            enough.set()
            await asyncio.gather(*changes, *calls)
            for client in clients:
                await client.close()
        report.seconds = time.monotonic() - started
    return report


async def _keep_calling(
    client: Pinned, places: list[Place], chooser: random.Random, report: Report, enough: asyncio.Event
) -> None:
    while not enough.is_set():
        values = chooser.choice(places).values
        value = values[-1] if chooser.random() < LAST_VALUE else chooser.choice(values[-RECENT_VALUES:])
        if value.answer == REFUSED and chooser.random() > REFUSED_AGAIN:
            await asyncio.sleep(0)
            continue
        await client.pin()
        sample = await client.request(value.path, value.token)
        report.attempts.append(Attempt.of(value, client.process.pid, sample))


async def _keep_changing(
    changer: Changer, place: Place, kinds: list[str], chooser: random.Random, enough: asyncio.Event
) -> None:
    """Change the access of a place in every way, over and over."""
    for kind in itertools.cycle(kinds):
        await changer.cycle(place, kind)
        await asyncio.sleep(chooser.random() * PAUSE_SECONDS)
        if enough.is_set():
            return


def outages_of(strake: Strake, cluster: Cluster | None) -> list[Outage]:
    """The ways in which the database of this Strake may go away."""
    if cluster is not None:
        return [DroppedConnections(cluster), Restarted(cluster), RestoredCluster(cluster)]
    [database] = strake.home.glob("data/*.sqlite3")
    return [RestoredOnline(database), ReplacedFile(database)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.revocation")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--stops", type=int, default=400, help="of a process with SIGSTOP (default: %(default)s)")
    parser.add_argument("--outages", type=int, default=12, help="of the database, of each kind (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        cluster = stack.enter_context(postgres.cluster()) if options.database == "postgresql" else None
        upstream = stack.enter_context(Upstream())
        upstream.default = respond
        environment = {} if cluster is None else {"DATABASE_URL": cluster.url}
        strake, known = stack.enter_context(processes(Path(folder) / "home", options.processes, environment))
        parts = {
            "changes": run(strake, known, upstream.url, options.requests, seed=options.seed),
            f"{options.stops} stops": stopped.run(strake, known, upstream.url, options.stops, seed=options.seed),
            "outages": outage.run(strake, known, upstream.url, outages_of(strake, cluster), options.outages),
        }
        reports = []
        for name, part in parts.items():
            reports.append(uvloop.run(part))
            print(f"{options.database}, {options.processes} processes, {name}: {reports[-1]}", flush=True)
    return int(not all(report.is_right for report in reports))


if __name__ == "__main__":
    sys.exit(main())
