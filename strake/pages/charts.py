"""Coordinates of the charts that templates/strake/traffic.html draws as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.request_log.stats import Step

WIDTH = 600
HEIGHT = 120
GAP = 0.25  # share of the slot of a bar


@dataclass(frozen=True, slots=True)
class Bar:
    """One stacked bar. `parts` are class name, y and height. The slot is the area that shows the hover text."""

    step: Step
    x: float
    width: float
    slot_x: float
    slot_width: float
    parts: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart of counts and one of latencies. The latency paths are "" if there were no requests."""

    bars: tuple[Bar, ...]
    max_requests: int
    p50: str
    p95: str
    max_latency: int
    width: int = WIDTH
    height: int = HEIGHT


def draw(steps: Sequence[Step]) -> Chart:
    max_requests = nice(max(step.total for step in steps))
    max_latency = nice(max(step.p95 or 0 for step in steps))
    slot = WIDTH / len(steps)
    bars = []
    for index, step in enumerate(steps):
        y: float = HEIGHT
        parts = []
        for name, count in (("good", step.good), ("warn", step.refused), ("bad", step.failed)):
            if count:
                height = count / max_requests * HEIGHT
                y -= height
                parts.append((name, round(y, 2), round(height, 2)))
        x = slot * (index + GAP / 2)
        bars.append(Bar(step, round(x, 2), round(slot * (1 - GAP), 2), round(slot * index, 2), slot, tuple(parts)))
    return Chart(
        tuple(bars),
        max_requests,
        _path([step.p50 for step in steps], max_latency),
        _path([step.p95 for step in steps], max_latency),
        max_latency,
    )


def nice(value: int) -> int:
    """The next round number for the top of an axis: 1, 2, 4, 5 or 8 times a power of ten."""
    power = 1
    while True:
        for factor in (1, 2, 4, 5, 8):
            if factor * power >= value:
                return factor * power
        power *= 10


def _path(values: Sequence[int | None], top: int) -> str:
    """An SVG path through the values, with a gap for each None. A single value becomes a short dash."""
    slot = WIDTH / len(values)
    commands: list[str] = []
    for index, value in enumerate(values):
        if value is None:
            continue
        x, y = slot * (index + 0.5), HEIGHT - value / top * HEIGHT
        if index and values[index - 1] is not None:
            commands.append(f"L{x:.1f} {y:.1f}")
        elif index + 1 < len(values) and values[index + 1] is not None:
            commands.append(f"M{x:.1f} {y:.1f}")
        else:
            commands.append(f"M{x - slot / 3:.1f} {y:.1f}h{slot / 1.5:.1f}")
    return "".join(commands)
