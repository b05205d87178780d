"""Open-loop load: requests come at a fixed rate, whether or not earlier ones have been answered.

Latency counts from the moment a request is due, so one that waits for a free connection counts its wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import cast

from bench.gateways import Target

CONNECTIONS = 128
TICK = 0.001  # requests that are due within the same millisecond leave together
MIN_REQUESTS = 500  # so that the slowest percent is more than one or two
PATIENCE = 0.5  # a gateway that is further behind will not catch up


class _Connection(asyncio.Protocol):
    def __init__(self, load: OpenLoop) -> None:
        self._load = load
        self._received = b""
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._load.is_idle(self)

    def send(self, request: bytes, due: float) -> None:
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not is_complete(self._received):
            return
        if self._received.startswith(b"HTTP/1.1 200"):
            self._load.has_answer(self, time.monotonic() - self._due)
        else:
            self._load.has_failed()
        self._received = b""

    def connection_lost(self, error: Exception | None) -> None:
        self._load.has_failed()


class OpenLoop:
    """Calls a target `rate` times a second, for some seconds. Stops early once too many responses came too late."""

    def __init__(self, target: Target, request: bytes, rate: float, seconds: float, bound: float) -> None:
        self._target, self._request, self._rate = target, request, rate
        self._bound = bound / 1000
        self._total = max(MIN_REQUESTS, int(rate * seconds))
        self._missing = self._total
        self._may_be_slow = self._total // 100
        self._idle: list[_Connection] = []
        self._over = asyncio.Event()

    async def keeps(self) -> bool:
        """Return whether every request was answered, and 99 % of them within the bound, which is in ms."""
        loop = asyncio.get_running_loop()
        opened = [
            await loop.create_connection(lambda: _Connection(self), *self._target.address) for _ in range(CONNECTIONS)
        ]
        await self._send_all()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), PATIENCE)
        self._over.set()
        for transport, _ in opened:
            transport.close()
        return self._missing == 0

    async def _send_all(self) -> None:
        start, sent = time.monotonic(), 0
        while sent < self._total and not self._over.is_set():
            due = start + math.ceil(sent / self._rate / TICK) * TICK
            late = time.monotonic() - due
            if late > PATIENCE:
                self._over.set()
            elif late < 0 or not self._idle:
                await asyncio.sleep(TICK)
            else:
                self._idle.pop().send(self._request, due)
                sent += 1

    # --- Called by the connections -----------------------------------------------------------------------------------

    def is_idle(self, connection: _Connection) -> None:
        self._idle.append(connection)

    def has_answer(self, connection: _Connection, latency: float) -> None:
        self._idle.append(connection)
        self._may_be_slow -= latency > self._bound
        if self._may_be_slow < 0:
            self._over.set()
        elif not self._over.is_set():
            self._missing -= 1
            if self._missing == 0:
                self._over.set()

    def has_failed(self) -> None:
        self._over.set()


def is_complete(received: bytes) -> bool:
    """Whether these bytes are a whole response, with a Content-Length or in chunks."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = received[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        return received.endswith(b"0\r\n\r\n")
    return len(received) >= end + 4 + int(head[at + 17 :].partition(b"\r\n")[0])
