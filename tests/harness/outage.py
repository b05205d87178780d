"""Take the database away, end access in it meanwhile without Strake, and use the token until the database is back.

Nothing may be accepted from that edit on, neither during the outage nor by the first request after it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.harness.history import OUTAGE, REFUSED, Attempt, Change, Report
from tests.harness.places import Place, changing, connect_places
from tests.harness.processes import Pinned, Process, pin
from tests.harness.stores import EDITS, Outage
from tests.support.running import Strake
from tests.support.upstream import until

PAUSE_SECONDS = 0.005  # between two requests of a line
FLUSHED_SECONDS = 1.5  # after that, the uses of a token are in its row
ENOUGH = 3


@dataclass
class Line:
    """A connection to one process that keeps sending requests with the token of one place."""

    client: Pinned
    place: Place
    attempts: list[Attempt] = field(default_factory=list)
    _calling: asyncio.Task[None] | None = None
    _is_last: bool = False

    async def call(self) -> None:
        value = self.place.value
        self.attempts.append(Attempt.of(value, self.client.pid, await self.client.request(value.path, value.token)))

    def start(self) -> None:
        self._is_last = False
        self._calling = asyncio.create_task(self._keep_calling())

    async def stop(self) -> None:
        """Stop after the request that is on its way."""
        self._is_last = True
        if self._calling is not None:
            await self._calling

    async def _keep_calling(self) -> None:
        while not self._is_last:
            await self.call()
            await asyncio.sleep(PAUSE_SECONDS)

    def since(self, start: float, *, during_outage: bool) -> int:
        """The number of requests from `start` on that did, or did not, find the database missing."""
        return sum(
            attempt.began >= start and (attempt.error == OUTAGE) == during_outage for attempt in self.attempts[-1000:]
        )


async def run(
    strake: Strake, known: Sequence[Process], upstream: str, outages: Sequence[Outage], repetitions: int
) -> Report:
    """Let each of the outages happen this many times."""
    report, started = Report(), time.monotonic()
    rounds = [(outage, number) for number in range(repetitions) for outage in outages]
    async with changing(strake, (), report) as changer:
        control, *doomed = await connect_places(changer, upstream, len(rounds) + 1)
    for (outage, number), place in zip(rounds, doomed, strict=True):
        edit = outage.edits[number % len(outage.edits)]
        lines = [Line(Pinned(process), place) for process in known]
        lines += [Line(Pinned(process), control) for process in known]
        await _go_through(outage, edit, place, lines)
        report.changes[f"{edit} ({outage.name})"] += 1
        for line in lines:
            report.attempts += line.attempts
            await line.client.close()
    report.seconds = time.monotonic() - started
    return report


async def _go_through(outage: Outage, edit: str, place: Place, lines: list[Line]) -> None:
    token_id = place.access.token_id
    await asyncio.to_thread(outage.prepare, token_id)
    await pin([line.client for line in lines])
    for line in lines:
        line.start()
    try:
        await _enough(lines, time.monotonic(), during_outage=False)
        if outage.notes:
            await _stop(lines)
            await asyncio.sleep(FLUSHED_SECONDS)
            await asyncio.to_thread(outage.note, token_id)
            await asyncio.gather(*(line.call() for line in lines))
        gone = time.monotonic()
        await asyncio.to_thread(outage.begin)
        if outage.notes:
            for line in lines:
                line.start()
        if outage.is_noticed:
            await _enough(lines, gone, during_outage=True)
        sql, name = EDITS[edit]
        began = time.monotonic()
        await asyncio.to_thread(outage.edit, sql, getattr(place.access, name))
        place.value.changes.append(Change(edit, began, time.monotonic(), REFUSED))
        await asyncio.to_thread(outage.end)
        back = time.monotonic()
        await _enough(lines, back, during_outage=False)
        for _ in range(outage.touches):
            await asyncio.to_thread(outage.touch)
            await asyncio.sleep(PAUSE_SECONDS)
    finally:
        await _stop(lines)


async def _stop(lines: list[Line]) -> None:
    await asyncio.gather(*(line.stop() for line in lines))


async def _enough(lines: list[Line], start: float, *, during_outage: bool) -> None:
    await until(lambda: all(line.since(start, during_outage=during_outage) >= ENOUGH for line in lines))
