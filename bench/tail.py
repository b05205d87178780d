"""The slowest percent of requests over one connection, without the moments in which the host ran something else.

The host of a virtual machine takes its processors away for milliseconds ("steal" of /proc/stat, proc(5)). At one
connection that alone can be the slowest percent. So requests are grouped into windows, and a window with steal does
not count. The load is a blocking socket, which adds less than wrk's timer.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path

from bench import closed_loop
from bench.gateways import Gateway, Target, settle
from bench.open_loop import is_complete
from bench.tables import Results, percentile, shown, table

WINDOW = 0.1  # seconds; steal is counted in hundredths of a second
WARM_UP = 1.0
MAX_SECONDS = 10  # times as long as asked for, until enough windows count
_STEAL = 8  # the column of /proc/stat


@dataclass(frozen=True)
class Times:
    """Latencies in ms, of all requests and of those in windows without steal. `seconds` is what these add up to."""

    every: list[float]
    undisturbed: list[float]
    seconds: float


def measure(gateway: Gateway, direct: Gateway, results: Results, seconds: float) -> None:
    """Measure one round of a gateway, and the provider itself just before. Both need undisturbed windows to count."""
    base = times(direct.targets[0], seconds)
    times(gateway.targets[0], WARM_UP)
    settle(gateway)
    own = times(gateway.targets[0], seconds)
    results.add(gateway.name, "tail every p99", percentile(own.every, 0.99))
    if base.undisturbed and own.undisturbed:
        results.add(gateway.name, "tail seconds", own.seconds)
        for part, name in ((0.5, "p50"), (0.99, "p99")):
            value = percentile(own.undisturbed, part)
            results.add(gateway.name, f"tail {name}", value)
            results.add(gateway.name, f"tail added {name}", value - percentile(base.undisturbed, part))


def times(target: Target, seconds: float) -> Times:
    """Call the target until `seconds` of windows count, or for `MAX_SECONDS` times as long.

    Raises `RuntimeError` if a response is an error.
    """
    body = closed_loop.BODY.encode()
    request = target.head(closed_loop.PATH, len(body)) + body
    every: list[float] = []
    undisturbed: list[float] = []
    counted, end = 0.0, time.monotonic() + seconds * MAX_SECONDS
    with socket.create_connection(target.address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while counted < seconds and time.monotonic() < end:
            before, window = steal(), _window(connection, request)
            every += window
            if steal() == before:
                undisturbed += window
                counted += WINDOW
    return Times(every, undisturbed, counted)


def _window(connection: socket.socket, request: bytes) -> list[float]:
    latencies = []
    end = time.perf_counter() + WINDOW
    while (start := time.perf_counter()) < end:
        connection.sendall(request)
        received = b""
        while not is_complete(received):
            if not (data := connection.recv(65_536)):
                raise RuntimeError("the connection was closed")
            received += data
        latencies.append((time.perf_counter() - start) * 1000)
        if not received.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not every request was answered: {received[:80]!r}")
    return latencies


def steal(stat: str = "/proc/stat") -> int:
    """Return for how long the host has run something else in place of this machine, in hundredths of a second."""
    return int(Path(stat).read_text(encoding="ascii").split("\n", 1)[0].split()[_STEAL])


def tables(results: Results) -> list[str]:
    names = results.gateways("tail every p99")
    figures = (("tail p50", 3), ("tail p99", 3), ("tail added p50", 3), ("tail added p99", 3))
    rows = [
        [
            name,
            *(shown(results.median(name, figure), digits) for figure, digits in figures),
            shown(results.median(name, "tail added p99") / results.median(name, "tail added p50"), 2),
            shown(results.median(name, "tail every p99"), 3),
            shown(results.median(name, "tail seconds"), 1),
        ]
        for name in names
        if name != "direct"
    ]
    head = ["gateway", "p50", "p99", "added p50", "added p99", "added p99 / added p50"]
    return [
        "## The slowest percent at one connection",
        "",
        f"Closed loop, latencies in ms. Windows of {WINDOW * 1000:.0f} ms in which the host took processor time away "
        "(steal) do not count, except in the last but one column. The last one says how long the counted ones are.",
        "",
        *table([*head, "p99 with steal", "seconds"], rows),
        "",
    ]
