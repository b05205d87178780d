"""What was measured, by gateway and figure, one value a round; and tables of it in Markdown."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence

NOT_MEASURED = float("nan")


class Results:
    """The value of each gateway and figure in each round. `round` is the current one."""

    def __init__(self) -> None:
        self.round = 0
        self._values: defaultdict[tuple[str, str], dict[int, float]] = defaultdict(dict)

    def add(self, gateway: str, figure: str, value: float) -> None:
        self._values[gateway, figure][self.round] = value

    def gateways(self, figure: str) -> list[str]:
        """The gateways that have this figure, in the order of their first measurement."""
        return [gateway for gateway, of in self._values if of == figure]

    def figures(self, gateway: str) -> list[str]:
        return [figure for name, figure in self._values if name == gateway]

    def median(self, gateway: str, figure: str) -> float:
        values = self._of(gateway, figure).values()
        return statistics.median(values) if values else NOT_MEASURED

    def worst(self, gateway: str, figure: str) -> float:
        return max(self._of(gateway, figure).values(), default=NOT_MEASURED)

    def ratio(self, gateway: str, other: str, figure: str) -> float:
        """The median of the ratios of each round, so that a slow moment of the machine affects both alike."""
        bases = self._of(other, figure)
        ratios = [value / bases[number] for number, value in self._of(gateway, figure).items() if bases.get(number)]
        return statistics.median(ratios) if ratios else NOT_MEASURED

    def _of(self, gateway: str, figure: str) -> dict[int, float]:
        return self._values.get((gateway, figure), {})


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` of the values are below: one of them, or the largest. `NOT_MEASURED` if there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else NOT_MEASURED


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def shown(value: float, digits: int = 0, unit: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}{unit}"
