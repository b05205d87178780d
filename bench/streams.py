"""Hold many streams open, and measure the delay that a gateway adds to each event."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import uvloop

from bench.upstream import CHUNKS

_AT = re.compile(rb'"content": ?"([0-9.]+)"')


@dataclass
class Outcome:
    """How many streams completed, and the delays of events from the provider's write to the client's read."""

    asked: int
    completed: int
    first_byte_ms: float
    event_p50_ms: float
    event_p99_ms: float


async def read_stream(url: str, headers: dict[str, str], delays: list[float], firsts: list[float]) -> bool:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
    body = b'{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"hello"}]}'
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{lines}content-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    seen = 0
    done = False
    try:
        while data := await reader.read(65536):
            now = time.monotonic()
            for match in _AT.finditer(data):
                delay = now - float(match[1])
                (delays if seen else firsts).append(delay * 1000)
                seen += 1
            if data.endswith(b"0\r\n\r\n"):
                done = True
                break
    finally:
        writer.close()
    return done and seen == CHUNKS


async def hold(url: str, headers: dict[str, str], count: int) -> Outcome:
    delays: list[float] = []
    firsts: list[float] = []

    async def later(index: int) -> bool:
        await asyncio.sleep(index * 2.0 / count)  # arrivals are spread over two seconds
        try:
            return await asyncio.wait_for(read_stream(url, headers, delays, firsts), 60)
        except (OSError, TimeoutError):
            return False

    completed = sum(await asyncio.gather(*(later(index) for index in range(count))))
    delays.sort()
    firsts.sort()
    first_byte = firsts[len(firsts) // 2] if firsts else float("nan")
    p50 = delays[len(delays) // 2] if delays else float("nan")
    p99 = delays[int(len(delays) * 0.99)] if delays else float("nan")
    return Outcome(count, completed, first_byte, p50, p99)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(uvloop.run(hold(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))))))
