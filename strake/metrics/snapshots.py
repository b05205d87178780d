"""The files through which processes publish their metrics, and how several are added up.

A file is JSON. It is replaced as a whole, so a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accounts.metrics import Labels, Metric

PATTERN = "metrics-*.json"
# The gauges of a process that has written nothing for so long do not count: it was killed, or hangs.
EXPIRY_SECONDS = 10.0


@dataclass(slots=True)
class Family:
    """A metric, added up over processes. Histograms have rows, as in `accounts.metrics`."""

    kind: str
    help: str
    labels: Labels
    merge: str
    bounds: tuple[float, ...]
    values: dict[Labels, Any] = field(default_factory=dict)


class Totals:
    """Metrics by name, added up."""

    def __init__(self) -> None:
        self.families: dict[str, Family] = {}

    def add(self, snapshot: dict[str, Any], *, gauges: bool) -> None:
        """Add the metrics of one process, with or without its gauges."""
        for name, metric in snapshot.items():
            if metric["kind"] == "gauge" and not gauges:
                continue
            family = self.families.get(name)
            if family is None:
                family = self.families[name] = Family(
                    metric["kind"],
                    metric["help"],
                    tuple(metric["labels"]),
                    metric["merge"],
                    tuple(metric.get("bounds", ())),
                )
            for labels, value in metric["values"]:
                key = tuple(labels)
                before = family.values.get(key)
                family.values[key] = value if before is None else _merged(family, before, value)

    def snapshot(self) -> dict[str, Any]:
        """Return the totals in the form that `add` takes."""
        return {
            name: {
                "kind": family.kind,
                "help": family.help,
                "labels": family.labels,
                "merge": family.merge,
                "bounds": family.bounds,
                "values": [[labels, value] for labels, value in family.values.items()],
            }
            for name, family in self.families.items()
        }


def _merged(family: Family, before: Any, value: Any) -> Any:
    if family.kind == "histogram":
        return [sum(pair) for pair in zip(before, value, strict=True)]
    return max(before, value) if family.merge == "max" else before + value


def taken(metrics: Iterable[Metric]) -> dict[str, Any]:
    """Return a snapshot of the metrics of this process that have values."""
    return {metric.name: metric.snapshot() for metric in metrics if metric.values}


def write(path: Path, snapshot: dict[str, Any], mode: int) -> None:
    """Replace a file. Raises `OSError`."""
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)  # the umask does not allow the group
        json.dump(snapshot, file)
    new.replace(path)


def read(path: Path) -> tuple[dict[str, Any], float]:
    """Return a snapshot, and its age in seconds. One that cannot be read is empty."""
    try:
        age = time.time() - path.stat().st_mtime
        snapshot: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}, 0.0
    return snapshot, age


def read_all(folder: Path) -> Iterator[tuple[dict[str, Any], float]]:
    """Read the files of both halves in a runtime folder."""
    for path in sorted(folder.glob(f"*/{PATTERN}")):
        yield read(path)


def remove(folder: Path) -> None:
    """Remove the files of earlier processes, before the first one of a half starts: totals begin anew."""
    for path in folder.glob(PATTERN):
        with contextlib.suppress(OSError):
            path.unlink()
