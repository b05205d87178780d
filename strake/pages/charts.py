"""Coordinates of the charts that templates/strake/traffic.html draws as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.request_log.stats import Step

WIDTH = 600
HEIGHT = 120
GAP = 0.25  # share of the slot of a bar
PARTS = ("good", "warn", "bad", "stopped")  # from below
# Even tops, so that the middle of an axis is a whole number, and no two far apart, so that a chart is never half empty.
_TOPS = (10, 12, 16, 20, 24, 30, 40, 50, 60, 80)


@dataclass(frozen=True, slots=True)
class Bar:
    """One stacked bar. `parts` are class name, y and height. The slot is the area that shows the values."""

    step: Step
    x: float
    width: float
    slot_x: float
    slot_width: float
    parts: tuple[tuple[str, float, float], ...]
    is_running: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart of counts and one of durations. The paths are "" if no request was answered."""

    bars: tuple[Bar, ...]
    max_requests: int
    p50: str
    p95: str
    max_duration: int
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def middle(self) -> Step:
        """The step that begins in the middle."""
        return self.bars[len(self.bars) // 2].step


def draw(steps: Sequence[Step]) -> Chart:
    max_requests = top_of(max(step.total + step.stopped for step in steps))
    max_duration = top_of(max(step.p95 or 0 for step in steps))
    slot = WIDTH / len(steps)
    bars = []
    for index, step in enumerate(steps):
        y: float = HEIGHT
        parts = []
        for name, requests in zip(PARTS, (step.good, step.refused, step.failed, step.stopped), strict=True):
            if requests:
                height = requests / max_requests * HEIGHT
                y -= height
                parts.append((name, round(y, 2), round(height, 2)))
        x = slot * (index + GAP / 2)
        bars.append(
            Bar(
                step,
                round(x, 2),
                round(slot * (1 - GAP), 2),
                round(slot * index, 2),
                round(slot, 2),
                tuple(parts),
                is_running=index == len(steps) - 1,
            )
        )
    return Chart(
        tuple(bars),
        max_requests,
        _path([step.p50 for step in steps], max_duration),
        _path([step.p95 for step in steps], max_duration),
        max_duration,
    )


def top_of(value: int) -> int:
    """The top of an axis for values up to `value`: an even number, or 1. At least two thirds of the axis are used."""
    if value <= 1:
        return 1
    if value <= 10:
        return value + value % 2
    power = 1
    while _TOPS[-1] * power < value:
        power *= 10
    return next(factor * power for factor in _TOPS if factor * power >= value)


def spark(counts: Sequence[int]) -> str:
    """An SVG path of bars, two units wide in steps of three and up to 16 high. "" if there is nothing to show."""
    top = max(counts, default=0)
    if not top:
        return ""
    heights = [max(1, round(value / top * 15)) if value else 0 for value in counts]
    return "".join(f"M{index * 3 + 1} 16v-{height}" for index, height in enumerate(heights) if height)


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
