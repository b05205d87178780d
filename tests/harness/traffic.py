"""Traffic through HAProxy: requests, event streams and pages, and what became of each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx

from tests.harness.site import FRONT, NAME, Site
from tests.support import machines
from tests.support.load import Client, Sample

PAGES_EVERY = 0.5
PATIENCE_SECONDS = 30.0


@dataclass
class Traffic:
    """What was sent, so far. A sample's status is 0 if the connection broke, and also after `PATIENCE_SECONDS`."""

    calls: list[Sample] = field(default_factory=list)
    streams: list[Sample] = field(default_factory=list)
    pages: list[Sample] = field(default_factory=list)
    longest_standstill: float = 0.0

    def failed_calls(self) -> list[Sample]:
        return [sample for sample in self.calls if sample.status != 200]

    def last_failure(self) -> float:
        """When the last request, stream or page that failed ended."""
        every = (*self.calls, *self.streams, *self.pages)
        return max((sample.ended for sample in every if sample.status != 200), default=0.0)

    def row(self, records_lost: int, lines: int) -> str:
        """The cells of a table: what failed, for how long, and what was lost."""
        failed = self.failed_calls()
        span = max(sample.ended for sample in failed) - min(sample.began for sample in failed) if failed else 0.0
        kinds = Counter(f"{sample.status} {sample.error}".strip() for sample in failed)
        kinds["broken"] = kinds.pop("0", 0)
        why = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common() if count)
        cells = (
            f"{len(failed)} of {len(self.calls)}" + (f" ({why})" if why else ""),
            f"{span:.1f} s" if failed else "",
            f"{_failed(self.streams)} of {len(self.streams)}",
            f"{_failed(self.pages)} of {len(self.pages)}",
            str(records_lost),
            str(lines),
        )
        return " | ".join(cells)


def _failed(samples: list[Sample]) -> int:
    return sum(sample.status != 200 for sample in samples)


@asynccontextmanager
async def traffic(site: Site, *, calls_per_second: float = 40, streams: int = 30) -> AsyncIterator[Traffic]:
    """Send traffic while the block runs. At its end, wait for every response."""
    result, ending = Traffic(), asyncio.Event()
    tasks = [asyncio.create_task(_calls(site, result, ending, 1 / calls_per_second))]
    tasks += [asyncio.create_task(_streams(site, result, ending, number / streams)) for number in range(streams)]
    tasks += [asyncio.create_task(_pages(site, result, ending)), asyncio.create_task(_watch(result, ending))]
    try:
        yield result
    finally:
        ending.set()
        await asyncio.gather(*tasks)


async def _calls(site: Site, result: Traffic, ending: asyncio.Event, every: float) -> None:
    idle: list[Client] = []
    running: set[asyncio.Task[None]] = set()

    async def one() -> None:
        client = idle.pop() if idle else Client((machines.ADDRESS, FRONT))
        result.calls.append(await _request(client, f"{site.endpoint.path}/v1/models", site.endpoint.token))
        idle.append(client)

    due = time.monotonic()
    while not ending.is_set():
        task = asyncio.create_task(one())
        running.add(task)
        task.add_done_callback(running.discard)
        due += every
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    await asyncio.gather(*running)
    for client in idle:
        await client.close()


async def _streams(site: Site, result: Traffic, ending: asyncio.Event, offset: float) -> None:
    client = Client((machines.ADDRESS, FRONT))
    await asyncio.sleep(offset * 6)
    while not ending.is_set():
        sample = await _request(client, f"{site.endpoint.path}/stream", site.endpoint.token)
        result.streams.append(sample)
        if sample.status != 200:
            await asyncio.sleep(0.5)
    await client.close()


async def _pages(site: Site, result: Traffic, ending: asyncio.Event) -> None:
    origin = f"http://{machines.ADDRESS}:{FRONT}"
    async with httpx.AsyncClient(base_url=origin, timeout=PATIENCE_SECONDS) as client:
        while not ending.is_set():
            began, status = time.monotonic(), 0
            with suppress(httpx.TransportError):
                status = (await client.get("/endpoints/", headers={"Host": NAME, "Cookie": site.session})).status_code
            result.pages.append(Sample(began, time.monotonic(), status))
            await asyncio.sleep(PAGES_EVERY)


async def _watch(result: Traffic, ending: asyncio.Event) -> None:
    """Notice when this process did not run."""
    while not ending.is_set():
        before = time.monotonic()
        await asyncio.sleep(0.1)
        result.longest_standstill = max(result.longest_standstill, time.monotonic() - before - 0.1)


async def _request(client: Client, path: str, token: str) -> Sample:
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await client.request(path, token)
    except (TimeoutError, OSError):
        await client.close()
        return Sample(began, time.monotonic(), 0)
