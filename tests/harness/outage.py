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
from tests.harness.stores import EDITS, Outage, ReplacedFile, RestoredCluster
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
        self.attempts.append(
            Attempt.of(value, self.client.process.pid, await self.client.request(value.path, value.token))
        )

    def start(self) -> None:
        """Start, unless it has started."""
        if self._calling is None:
            self._is_last = False
            self._calling = asyncio.create_task(self._keep_calling())

    async def stop(self) -> None:
        """Stop after the request that is on its way."""
        self._is_last = True
        if self._calling is not None:
            await self._calling
            self._calling = None

    async def _keep_calling(self) -> None:
        while not self._is_last:
            await self.call()
            await asyncio.sleep(PAUSE_SECONDS)

    def since(self, start: float, *errors: str) -> int:
        """The number of requests from `start` on, or of those with one of these errors."""
        return sum(
            attempt.began >= start and (not errors or attempt.error in errors) for attempt in self.attempts[-1000:]
        )


async def run(
    strake: Strake, known: Sequence[Process], upstream: str, outages: Sequence[Outage], repetitions: int
) -> Report:
    """Let each of the outages happen this many times."""
    report, started = Report(), time.monotonic()
    rounds = [(outage, number) for number in range(repetitions) for outage in outages]
    async with changing(strake, (), report) as changer:
        control, *doomed = await connect_places(changer, upstream, len(rounds) + 1, name="outage")
    for (outage, number), place in zip(rounds, doomed, strict=True):
        edit = outage.edits[number % len(outage.edits)]
        lines = [Line(Pinned(process), place) for process in known]
        controls = [Line(Pinned(process), control) for process in known]
        await _go_through(outage, edit, place, lines, controls)
        report.changes[f"{edit} ({outage.name})"] += 1
        for line in (*lines, *controls):
            report.attempts += line.attempts
            await line.client.close()
    report.seconds = time.monotonic() - started
    return report


async def _go_through(outage: Outage, edit: str, place: Place, doomed: list[Line], controls: list[Line]) -> None:
    lines, token_id = [*doomed, *controls], place.access.token_id
    await asyncio.to_thread(outage.prepare, token_id)
    await pin([line.client for line in lines])
    try:
        await _start(lines)
        await _settle(outage, token_id, lines)
        await asyncio.to_thread(outage.begin)
        await _start(lines)
        sql, name = EDITS[edit]
        began = time.monotonic()
        await asyncio.to_thread(outage.edit, sql, getattr(place.access, name))
        place.value.changes.append(Change(edit, began, time.monotonic(), REFUSED))
        if outage.touches:
            await _stop(doomed)
        await asyncio.to_thread(outage.end)
        await _serving(controls if outage.touches else lines)
        await _stop(lines)
        for _ in range(outage.touches):
            await asyncio.gather(*(line.call() for line in doomed))
            await asyncio.to_thread(outage.touch)
    finally:
        await _stop(lines)


async def _settle(outage: Outage, token_id: str, lines: list[Line]) -> None:
    """Reach the state that the outage is about, in which every process has just used the token."""
    await _serving(lines)
    if isinstance(outage, ReplacedFile):
        hidden = time.monotonic()
        await asyncio.to_thread(outage.hide)
        await until(lambda: all(line.since(hidden, OUTAGE) for line in lines), what="a refusal without the table")
        await asyncio.to_thread(outage.show)
        await _serving(lines)
        await _stop(lines)
        for _ in range(outage.raised):
            await asyncio.to_thread(outage.touch)
            await asyncio.gather(*(line.call() for line in lines))
    if isinstance(outage, RestoredCluster):
        await _stop(lines)
        await asyncio.sleep(FLUSHED_SECONDS)
        await asyncio.to_thread(outage.note, token_id)
        await asyncio.gather(*(line.call() for line in lines))


async def _start(lines: list[Line]) -> None:
    """Keep calling, and wait for a few responses, or errors, of each line."""
    start = time.monotonic()
    for line in lines:
        line.start()
    await until(lambda: all(line.since(start) >= ENOUGH for line in lines))


async def _serving(lines: list[Line]) -> None:
    """Wait until no line finds the database missing."""
    start = time.monotonic()
    await until(lambda: all(line.since(start) - line.since(start, OUTAGE) >= ENOUGH for line in lines))


async def _stop(lines: list[Line]) -> None:
    await asyncio.gather(*(line.stop() for line in lines))
