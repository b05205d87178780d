"""Many event streams at once: do all complete, what does each hold, and what does an event cost?"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass
from typing import cast

import uvloop

from bench.closed_loop import PATH
from bench.gateways import Gateway, Target, metered
from bench.tables import Results, percentile, shown, table
from bench.upstream import stream_body

_AT = re.compile(rb'"content": ?"([0-9.]+)"')
SETTLE = 0.5  # seconds between the first event of the last stream and the measurement
PATIENCE = 30.0  # seconds that streams may take longer than the provider needs


@dataclass(frozen=True)
class Case:
    """How many streams, the seconds between two events, and for how long all of them are open and measured."""

    count: int
    gap: float
    seconds: float

    @property
    def ramp(self) -> float:
        """The seconds over which streams begin, so that their events are spread as well."""
        return max(1.0, self.count / 500)

    @property
    def slack(self) -> float:
        """The seconds by which the last stream may begin late, and all of them still be open while measured."""
        return self.ramp / 2

    @property
    def events(self) -> int:
        return int((self.ramp + self.slack + SETTLE + self.seconds) / self.gap) + 1

    @property
    def holds_memory(self) -> bool:
        """Whether the gateway needs more memory than earlier streams have left it."""
        return self.count >= 500

    def __str__(self) -> str:
        return f"{self.count:,} streams, an event every {self.gap * 1000:g} ms"


@dataclass
class Outcome:
    """Streams that broke, and that were open while measured; events per second, their cost and delay; memory of each.

    Delays are in ms, cost is in µs, and memory in KB.
    """

    broken: int
    open: int
    events_per_second: float
    cpu: float
    p50: float
    p99: float
    memory: float


class Tally:
    """What the clients of one case have seen so far. `delays` has one entry for each event, in ms."""

    def __init__(self, count: int) -> None:
        self.delays: list[float] = []
        self.begun = 0
        self.ended = 0
        self.all_begun = asyncio.Event()
        self._count = count

    def begin(self) -> None:
        self.begun += 1
        if self.begun == self._count:
            self.all_begun.set()


class Stream(asyncio.Protocol):
    """One client. `whole` is True once every event and the end of the response have arrived, False if they do not."""

    def __init__(self, request: bytes, events: int, tally: Tally) -> None:
        self.whole: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._request, self._events, self._tally = request, events, tally
        self._seen = 0
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        data = self._rest + data
        end = 0
        for match in _AT.finditer(data):
            self._tally.delays.append((now - float(match[1])) * 1000)
            if not self._seen:
                self._tally.begin()
            self._seen += 1
            end = match.end()
        self._rest = data[end:]
        if self._rest.endswith(b"\r\n0\r\n\r\n"):
            self._finish(whole=self._seen == self._events)

    def connection_lost(self, error: Exception | None) -> None:
        self._finish(whole=False)

    def _finish(self, *, whole: bool) -> None:
        if not self.whole.done():
            self.whole.set_result(whole)
            self._tally.ended += 1
        self._transport.close()


async def read(target: Target, request: bytes, events: int, tally: Tally) -> bool:
    """Read one stream to its end. Returns whether it was whole."""
    loop = asyncio.get_running_loop()
    try:
        _, stream = await loop.create_connection(lambda: Stream(request, events, tally), *target.address)
    except OSError:
        return False
    return await stream.whole


async def hold(gateway: Gateway, case: Case) -> Outcome:
    """Open the streams of a case, spread over the gateway's endpoints, and read them to their end."""
    tally = Tally(case.count)
    private = gateway.memory_kb("Private_Dirty")
    body = stream_body(case.events, case.gap)
    requests = [target.head(PATH, len(body)) + body for target in gateway.targets]

    async def one(index: int) -> bool:
        await asyncio.sleep(index * case.ramp / case.count)
        which = index % len(gateway.targets)
        return await read(gateway.targets[which], requests[which], case.events, tally)

    streams = [asyncio.create_task(one(index)) for index in range(case.count)]
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(tally.all_begun.wait(), case.ramp + case.slack)
    await asyncio.sleep(SETTLE)
    before, start = len(tally.delays), time.monotonic()
    with metered(gateway) as spent:
        await asyncio.sleep(case.seconds)
    delays, seconds = tally.delays[before:], time.monotonic() - start
    still_open = tally.begun - tally.ended
    private = gateway.memory_kb("Private_Dirty") - private
    done, late = await asyncio.wait(streams, timeout=case.events * case.gap + PATIENCE)
    for task in late:
        task.cancel()
    delays.sort()
    return Outcome(
        broken=case.count - sum(task.result() for task in done),
        open=still_open,
        events_per_second=len(delays) / seconds,
        cpu=spent.gateway / max(1, len(delays)) * 1e6,
        p50=percentile(delays, 0.5),
        p99=percentile(delays, 0.99),
        memory=private / case.count,
    )


def measure(gateway: Gateway, results: Results, cases: list[Case]) -> None:
    uvloop.run(hold(gateway, Case(10, 0.02, 0.5)))  # connections and code that later streams share
    for case in cases:
        outcome: Outcome = uvloop.run(hold(gateway, case))
        for figure, value in vars(outcome).items():
            if figure != "memory" or case.holds_memory:
                results.add(gateway.name, f"{case}: {figure}", value)


def tables(results: Results, cases: list[Case]) -> list[str]:
    lines = [
        "## Event streams",
        "",
        "Over three endpoints, if the gateway is Strake. Measured while they are open. The delay is from the "
        "provider's write to the client's read, in ms. CPU is that of all of the gateway's processes. Memory is what "
        "they have written more than before (`Private_Dirty`), without the kernel's socket buffers.",
        "",
    ]
    for case in cases:
        head = [str(case), "broken", "open", "events/s", "delay p50", "p99", "CPU per event, µs", "of nginx's"]
        head += ["memory each, KB"] if case.holds_memory else []
        rows = [_row(results, name, case) for name in results.gateways(f"{case}: broken")]
        lines += [*table(head, rows), ""]
    return lines


def _row(results: Results, name: str, case: Case) -> list[str]:
    figures = [("open", 0), ("events_per_second", 0), ("p50", 2), ("p99", 2), ("cpu", 1)]
    return [
        name,
        shown(results.worst(name, f"{case}: broken")),
        *(shown(results.median(name, f"{case}: {figure}"), digits) for figure, digits in figures),
        shown(results.ratio(name, "nginx", f"{case}: cpu"), 2),
        *([shown(results.median(name, f"{case}: memory"), 1)] if case.holds_memory else []),
    ]
