"""Findings, and how they word numbers."""

from __future__ import annotations

from dataclasses import dataclass

GOOD, WARN, BAD = "good", "warn", "bad"
SKIPPED = "skipped"  # cannot be told from here, and no reason to worry


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: the component, its state, and the details in words."""

    name: str
    state: str
    words: str


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 record`, `1,204 records`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def size(number: int) -> str:
    """A number of bytes in decimal units, as disks have them: `512 bytes`, `3.4 MB`, `120 GB`."""
    if number < 1000:
        return counted(number, "byte")
    value = float(number)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"


def duration(seconds: float) -> str:
    """A short time: `less than 1 ms`, `12 ms`, `1.5 s`."""
    if seconds < 0.001:
        return "less than 1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
