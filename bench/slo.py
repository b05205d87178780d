"""The highest rate of short requests whose 99th percentile stays below a bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import uvloop

from bench import closed_loop
from bench.gateways import Gateway, Target, settle
from bench.open_loop import CONNECTIONS, OpenLoop
from bench.tables import Results, shown, table

BOUNDS = (10, 5)  # ms, the wider one first: the rate for the next is not higher
STEPS = 6
FLOOR = 0.05  # of what the gateway can do at all. Below this, it does not keep the bound


def measure(gateway: Gateway, results: Results, seconds: int) -> None:
    """Search between a twentieth of the closed-loop rate at 32 connections, and a bit more than all of it."""
    target = gateway.targets[0]
    most = closed_loop.load(target, 32, seconds).rps * 1.1
    settle(gateway)
    keeps(target, most * FLOOR, seconds, math.inf)  # connections of the search, for the first time
    highest = most
    for bound in BOUNDS:
        highest = search(partial(keeps, target, seconds=seconds, bound=bound), most * FLOOR, highest, STEPS)
        results.add(gateway.name, f"slo {bound}", highest)


def keeps(target: Target, rate: float, seconds: float, bound: float) -> bool:
    body = closed_loop.BODY.encode()
    request = target.head(closed_loop.PATH, len(body)) + body
    kept: bool = uvloop.run(OpenLoop(target, request, rate, seconds, bound).keeps())
    return kept


def search(is_kept: Callable[[float], bool], low: float, high: float, steps: int) -> float:
    """Return a rate that keeps the bound while one a step higher does not, or 0 if `low` does not. Bisects."""
    if high <= low or not is_kept(low):
        return 0.0
    for _ in range(steps):
        middle = math.sqrt(low * high)
        if is_kept(middle):
            low = middle
        else:
            high = middle
    return low


def tables(results: Results) -> list[str]:
    names = results.gateways("slo 5")
    ordered = sorted(BOUNDS)
    strakes = [name for name in names if name.startswith("strake")]
    rows = [
        [
            name,
            *(shown(results.median(name, f"slo {bound}")) for bound in ordered),
            *(shown(results.ratio(strake, name, f"slo {bound}"), 2) for strake in strakes for bound in ordered),
        ]
        for name in names
    ]
    head = ["gateway", *(f"requests/s at p99 ≤ {bound} ms" for bound in ordered)]
    head += [f"{strake} / it, {bound} ms" for strake in strakes for bound in ordered]
    return [
        "## Requests per second within a latency",
        "",
        f"Open loop: requests come at a fixed rate, those of a millisecond together, over {CONNECTIONS} connections. "
        "Latency counts from when a request is due, so one that waits for a connection counts its wait. The rate is "
        "found by bisection, to about 5 %. 0: not even a twentieth of the gateway's highest rate keeps the bound. "
        "`direct` is the limit of load and provider, which share a core: a rate close to it says nothing about the "
        "gateway.",
        "",
        *table(head, rows),
        "",
    ]
