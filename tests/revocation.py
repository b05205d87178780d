"""Is a revoked token refused from the moment the revocation has returned? A harness that tries to catch Strake.

Clients call in a loop with tokens that live, have died, or are dying right now, while another process rotates and
revokes them. Every request is noted with the time it was invoked, every revocation with the time it returned; both
are readings of CLOCK_MONOTONIC, which all processes of a machine share. Afterwards each request is held against what
was true when it was invoked: that is what makes revocation linearisable.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.load import Client
from tests.running import Endpoint, Strake

FOREVER = float("inf")
SLOTS = 8
KEPT = 4  # how many generations of a token are still tried
CLIENTS = 16
RECONNECTED = 0.02


@dataclass
class Token:
    """One value of a token. Live from `born`; a request invoked at `dead` or later must be refused."""

    value: str = field(repr=False)
    token_id: str
    born: float
    dying: float = FOREVER  # when the call that ends it was begun
    dead: float = FOREVER  # when that call had returned


@dataclass(frozen=True)
class Attempt:
    token: Token
    began: float
    ended: float
    status: int

    @property
    def wrongly_accepted(self) -> bool:
        return self.status != 401 and self.began >= self.token.dead

    @property
    def wrongly_refused(self) -> bool:
        return self.status == 401 and self.began >= self.token.born and self.ended <= self.token.dying

    @property
    def concurrent(self) -> bool:
        """Whether the token was ended while this was under way, so that either answer is right."""
        return self.began < self.token.dead and self.ended > self.token.dying


@dataclass
class Report:
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
        """Seconds between a revocation's return and the first request invoked after it: how hard this looked."""
        gaps = [attempt.began - attempt.token.dead for attempt in self.attempts if attempt.began >= attempt.token.dead]
        return min(gaps, default=FOREVER)

    def __str__(self) -> str:
        rate = len(self.attempts) / self.seconds
        return (
            f"{len(self.attempts)} requests in {self.seconds:.0f} s ({rate:.0f}/s), "
            f"{self.rotations} rotations, {self.revocations} revocations\n"
            f"  processor time of the workers: {', '.join(f'{seconds:.1f} s' for seconds in self.busy.values())}\n"
            f"  answers: {dict(self.statuses)}, of them while a token was ending: "
            f"{sum(attempt.concurrent for attempt in self.attempts)}\n"
            f"  soonest request after a revocation had returned: {self.soonest * 1e6:.0f} µs\n"
            f"  accepted after the revocation had returned: {len(self.wrongly_accepted)}\n"
            f"  live tokens refused: {len(self.wrongly_refused)}"
        )


LEAST_ENDINGS = 10


async def run(strake: Strake, destination: str, requests: int, *, seed: int = 1) -> Report:
    """Make at least `requests` requests to a Strake whose endpoints lead to `destination`."""
    chosen = random.Random(seed)
    endpoints = [await asyncio.to_thread(strake.connect, destination) for _ in range(SLOTS)]
    slots = [[Token(one.token, one.token_id, time.monotonic())] for one in endpoints]
    report = Report()
    started = time.monotonic()
    worked = {pid: _processor_seconds(pid) for pid in strake.workers}

    async def call(client: Client) -> None:
        # On a busy machine a token takes long to end: go on until enough of them have.
        while len(report.attempts) < requests or min(report.rotations, report.revocations) <= LEAST_ENDINGS:
            slot = chosen.randrange(SLOTS)
            token = chosen.choice(slots[slot][-KEPT:])
            sample = await client.request(f"{endpoints[slot].path}/v1/models", token.value)
            report.attempts.append(Attempt(token, sample.began, sample.ended, sample.status))
            if chosen.random() < RECONNECTED:
                await client.close()  # the next connection may be another worker's

    async def end(slot: int) -> None:
        """End the live token of a slot, by rotation or by revocation, and put another one in its place."""
        old = slots[slot][-1]
        of = endpoints[slot]
        old.dying = time.monotonic()
        if chosen.random() < 0.5:
            new = await asyncio.to_thread(strake.rotate, Endpoint(of.url, of.subdomain, old.value, old.token_id))
            old.dead = time.monotonic()
            report.rotations += 1
        else:
            await asyncio.to_thread(strake.revoke, Endpoint(of.url, of.subdomain, old.value, old.token_id))
            old.dead = time.monotonic()
            report.revocations += 1
            new = await asyncio.to_thread(strake.issue, of)
        slots[slot].append(Token(new.token, new.token_id, time.monotonic()))

    async def keep_ending() -> None:
        while True:
            await end(chosen.randrange(SLOTS))
            await asyncio.sleep(chosen.random() * 0.05)

    clients = [Client(strake.address) for _ in range(CLIENTS)]
    ending = asyncio.create_task(keep_ending())
    try:
        await asyncio.gather(*(call(client) for client in clients))
    finally:
        ending.cancel()
        done, _ = await asyncio.wait({ending})
        for task in done:
            if not task.cancelled():
                task.result()
        for client in clients:
            await client.close()
    report.seconds = time.monotonic() - started
    report.busy = {pid: _processor_seconds(pid) - before for pid, before in worked.items()}
    return report


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
