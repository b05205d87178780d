"""Try to get a request accepted after the rotation or revocation of its token has returned.

    python -m tests.harness.revocation [--requests 100000] [--database postgresql]

Clients use tokens that are live, dead or being revoked, while another process rotates and revokes them. Each request
records when it was sent and each revocation when it returned, both by CLOCK_MONOTONIC, which all processes share.
Afterwards each response is compared with the state of its token when the request was sent (linearizability). Exits
with 1 if a dead token was accepted or a live one refused.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from tests.harness import database
from tests.support.load import Client
from tests.support.process import processor_seconds
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Exchange, Upstream

NEVER = float("inf")
ENDPOINTS = 8
RECENT_VALUES = 4  # clients still try this many values of each token
CLIENTS = 16
RECONNECTED = 0.02  # the share of requests after which a client reconnects
MIN_REVOCATIONS = 10
REFUSED = frozenset({401, 429})  # 429: the token has been refused so often that it is not looked up for a second


@dataclass
class Token:
    """One value of a token. Requests sent after `revoked` must be refused. All times are `time.monotonic` readings."""

    value: str = field(repr=False)
    token_id: str
    issued: float
    revoking: float = NEVER  # when the call that revokes it began
    revoked: float = NEVER  # when that call returned


@dataclass(frozen=True)
class Attempt:
    """One request."""

    token: Token
    began: float
    ended: float
    status: int

    @property
    def wrongly_accepted(self) -> bool:
        return self.status not in REFUSED and self.began >= self.token.revoked

    @property
    def wrongly_refused(self) -> bool:
        return self.status in REFUSED and self.began >= self.token.issued and self.ended <= self.token.revoking

    @property
    def concurrent(self) -> bool:
        """True if the token was revoked during this request, so that either response is right."""
        return self.began < self.token.revoked and self.ended > self.token.revoking


@dataclass
class Report:
    """The outcome of a run."""

    attempts: list[Attempt] = field(default_factory=list)
    rotations: int = 0
    revocations: int = 0
    seconds: float = 0.0
    busy: dict[int, float] = field(default_factory=dict)  # seconds of processor time, by worker

    @property
    def wrongly_accepted(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.wrongly_accepted]

    @property
    def wrongly_refused(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.wrongly_refused]

    @property
    def statuses(self) -> Counter[int]:
        return Counter(attempt.status for attempt in self.attempts)

    @property
    def soonest(self) -> float:
        """The shortest time in seconds between a revocation and a request with its token."""
        gaps = [attempt.began - attempt.token.revoked for attempt in self.attempts]
        return min((gap for gap in gaps if gap >= 0), default=NEVER)

    def __str__(self) -> str:
        rate = len(self.attempts) / self.seconds
        return (
            f"{len(self.attempts)} requests in {self.seconds:.0f} s ({rate:.0f}/s), "
            f"{self.rotations} rotations, {self.revocations} revocations\n"
            f"  processor time of the workers: {', '.join(f'{seconds:.1f} s' for seconds in self.busy.values())}\n"
            f"  responses: {dict(self.statuses)}, during a revocation: "
            f"{sum(attempt.concurrent for attempt in self.attempts)}\n"
            f"  soonest request after a revocation: {self.soonest * 1e6:.0f} µs\n"
            f"  accepted after a revocation: {len(self.wrongly_accepted)}\n"
            f"  live tokens refused: {len(self.wrongly_refused)}"
        )


async def run(strake: Strake, destination: str, requests: int, *, seed: int = 1) -> Report:
    """Send at least `requests` requests through endpoints that forward to `destination`."""
    chooser = random.Random(seed)
    endpoints = [await asyncio.to_thread(strake.connect, destination) for _ in range(ENDPOINTS)]
    values = [[Token(endpoint.token, endpoint.token_id, time.monotonic())] for endpoint in endpoints]
    report = Report()
    started = time.monotonic()
    busy_before = {pid: processor_seconds(pid) for pid in strake.workers}

    async def call(client: Client) -> None:
        # Revocations are slow on a busy machine, so go on until there are enough of them.
        while len(report.attempts) < requests or min(report.rotations, report.revocations) <= MIN_REVOCATIONS:
            index = chooser.randrange(ENDPOINTS)
            token = chooser.choice(values[index][-RECENT_VALUES:])
            sample = await client.request(f"{endpoints[index].path}/v1/models", token.value)
            report.attempts.append(Attempt(token, sample.began, sample.ended, sample.status))
            if chooser.random() < RECONNECTED:
                await client.close()  # another worker may accept the next connection

    async def replace(index: int) -> None:
        """Replace the live token of an endpoint, by rotation or by revocation and issue."""
        old, endpoint = values[index][-1], endpoints[index]
        current = Endpoint(endpoint.url, endpoint.subdomain, old.value, old.token_id)
        old.revoking = time.monotonic()
        if chooser.random() < 0.5:
            new = await asyncio.to_thread(strake.rotate, current)
            old.revoked = time.monotonic()
            report.rotations += 1
        else:
            await asyncio.to_thread(strake.revoke, current)
            old.revoked = time.monotonic()
            report.revocations += 1
            new = await asyncio.to_thread(strake.issue, endpoint)
        values[index].append(Token(new.token, new.token_id, time.monotonic()))

    async def keep_replacing() -> None:
        while True:
            await replace(chooser.randrange(ENDPOINTS))
            await asyncio.sleep(chooser.random() * 0.05)

    clients = [Client(strake.address) for _ in range(CLIENTS)]
    replacing = asyncio.create_task(keep_replacing())
    try:
        await asyncio.gather(*(call(client) for client in clients))
    finally:
        replacing.cancel()
        done, _ = await asyncio.wait({replacing})
        for task in done:
            if not task.cancelled():
                task.result()
        for client in clients:
            await client.close()
    report.seconds = time.monotonic() - started
    report.busy = {pid: processor_seconds(pid) - before for pid, before in busy_before.items()}
    return report


async def respond(exchange: Exchange) -> None:
    exchange.connection.upstream.exchanges.clear()  # nothing reads them, and there are many
    await exchange.respond(body=b"{}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.revocation")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=4, help="with PostgreSQL; SQLite has one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, database(options.database) as environment, Upstream() as upstream:
        upstream.default = respond
        workers = 1 if options.database == "sqlite" else options.workers
        with Strake(Path(folder) / "home", {"WEB_CONCURRENCY": str(workers), **environment}) as strake:
            report = uvloop.run(run(strake, upstream.url, options.requests, seed=options.seed))
    print(f"{options.database}, {workers} worker processes: {report}")
    broken = (
        report.wrongly_accepted or report.wrongly_refused or not {200, 401} <= set(report.statuses) <= {200, *REFUSED}
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
