"""Rates and latencies of short requests, what they cost, and the ratios of Strake to each other gateway."""

from __future__ import annotations

import math

from bench.closed_loop import load
from bench.gateways import Gateway, metered, settle
from bench.tables import Results, shown, table

CONNECTIONS = (1, 32, 256)
WARM_UP = 1  # seconds
REQUESTS_EACH = 4  # the least for every connection. A slow gateway gets more time
LONGEST = 30  # seconds


def measure(gateway: Gateway, direct: Gateway, results: Results, seconds: int) -> None:
    """Measure one round of a gateway, and the provider itself just before, which the added latency is relative to."""
    (target,) = gateway.targets[:1]
    base = load(direct.targets[0], 1, seconds)
    for connections in CONNECTIONS:
        rate = max(1, load(target, min(connections, 32), WARM_UP).rps)
        settle(gateway)
        with metered(gateway) as spent:
            run = load(target, connections, max(seconds, min(LONGEST, math.ceil(REQUESTS_EACH * connections / rate))))
        figures = {"rps": run.rps, "p50": run.p50, "p99": run.p99}
        figures["cpu"] = spent.gateway / run.requests * 1e6
        figures["stores"] = spent.stores / run.requests * 1e6
        if connections == 1 and gateway is not direct:
            figures |= {"added p50": run.p50 - base.p50, "added p99": run.p99 - base.p99}
        for figure, value in figures.items():
            results.add(gateway.name, f"{figure} {connections}", value)
    results.add(gateway.name, "memory", gateway.memory_kb("Pss") / 1024)


def tables(results: Results) -> list[str]:
    names = results.gateways("rps 1")

    def row(name: str, *figures: tuple[str, int]) -> list[str]:
        return [name, *(shown(results.median(name, figure), digits) for figure, digits in figures)]

    rates = [(f"rps {count}", 0) for count in CONNECTIONS]
    times = [(f"{part} {count}", 2) for count in CONNECTIONS for part in ("p50", "p99")]
    added = [("added p50 1", 3), ("added p99 1", 3)]
    costs = [(f"cpu {count}", 0) for count in CONNECTIONS] + [("stores 32", 0), ("memory", 0)]
    return [
        "## Short requests",
        "",
        "Closed loop (wrk). Latencies in ms. Added: over calling the provider directly, just before.",
        "",
        *table(
            [
                *("gateway", "requests/s, 1 connection", "32", "256"),
                *("p50 at 1", "p99 at 1", "p50 at 32", "p99 at 32", "p50 at 256", "p99 at 256"),
                *("added p50 at 1", "added p99 at 1"),
            ],
            [row(name, *rates, *times, *added) for name in names],
        ),
        "",
        "Processor time of all of the gateway's processes per request, in µs. Its stores are PostgreSQL's backends and "
        "Redis, on the load's core. Memory is the proportional set size of the gateway's processes.",
        "",
        *table(
            ["gateway", "CPU at 1 connection", "at 32", "at 256", "of its stores at 32", "memory, MB"],
            [row(name, *costs) for name in names],
        ),
        "",
        *_ratios(results, names),
    ]


def _ratios(results: Results, names: list[str]) -> list[str]:
    """One row for each pair of a Strake and another gateway."""
    figures = [*(f"rps {count}" for count in CONNECTIONS), "added p50 1", "cpu 32"]
    rows = [
        [f"{strake} / {other}", *(shown(results.ratio(strake, other, figure), 2) for figure in figures)]
        for strake in names
        if strake.startswith("strake")
        for other in names
        if other not in {strake, "direct"}
    ]
    head = ["medians of each round's ratio", "requests/s at 1", "32", "256", "added p50 at 1", "CPU at 32"]
    return [*table(head, rows), ""]
