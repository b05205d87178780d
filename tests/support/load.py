"""Clients that cause load: keep-alive connections on the event loop. They record the times of each request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One request. The times are `time.monotonic` readings, which all processes share."""

    began: float
    ended: float
    status: int  # 0 if the connection broke
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def error(self) -> str:
        """The value of X-Strake-Error, or ""."""
        return self.headers.get("x-strake-error", "")


class Client:
    """One connection, which reconnects after it was closed."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, path: str, token: str, *, method: str = "GET", headers: dict[str, str] | None = None
    ) -> Sample:
        """Send a request without a body, and read the whole response."""
        # A front closes a connection that is idle. The transport only notices when it writes.
        if self._streams is None or self._streams[1].is_closing() or self._streams[0].at_eof():
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{lines}\r\n"
        began = time.monotonic()
        try:
            writer.write(head.encode())
            status, response_headers = await self._read_response(reader)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return Sample(began, time.monotonic(), 0)
        if response_headers.get("connection") == "close":
            writer.close()
        return Sample(began, time.monotonic(), status, response_headers)

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _read_response(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
            await reader.readexactly(2)
        else:
            await reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split(" ")[1]), headers


@dataclass
class Load:
    """The requests of `loading` so far."""

    samples: list[Sample] = field(default_factory=list)

    def between(self, start: float, end: float) -> list[Sample]:
        """Return the requests that began and ended within a span of time."""
        return [sample for sample in self.samples if start <= sample.began and sample.ended <= end]


@asynccontextmanager
async def loading(
    address: tuple[str, int], path: str, token: str, *, connections: int, pause: float = 0.0
) -> AsyncIterator[Load]:
    """Send requests over `connections` clients, each with a `pause` in seconds between two, while the context lasts."""
    load = Load()
    clients = [Client(address) for _ in range(connections)]

    async def run(client: Client) -> None:
        while True:
            load.samples.append(await client.request(path, token))
            await asyncio.sleep(pause)

    tasks = [asyncio.create_task(run(client)) for client in clients]
    try:
        yield load
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in clients:
            await client.close()


def percentile(samples: list[Sample], part: float) -> float:
    """Return the duration in seconds that a share of the samples, `part` (0 to 1), did not exceed."""
    ordered = sorted(sample.seconds for sample in samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
