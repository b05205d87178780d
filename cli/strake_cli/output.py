"""What the commands print: tables and lines for people, one JSON document for programs. Nothing adds a secret."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE = 240  # in a pipe, no column is cut off


def console(*, stderr: bool = False) -> Console:
    """A console that follows NO_COLOR and the terminal. Nothing that is printed is read as markup."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=True)


def as_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """A line for the person, on standard error, so that standard output holds only the result."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        shown.add_column(heading, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(plain(str(cell))) for cell in row))
    console().print(shown)


def facts(pairs: Mapping[str, object]) -> None:
    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column(style="dim")
    shown.add_column(overflow="fold")
    for name, value in pairs.items():
        shown.add_row(name, Text(plain(str(value))))
    console().print(shown)


def plain(text: str) -> str:
    """Escape control characters: labels and messages come from elsewhere."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def time(text: str | None) -> str:
    """A time of the API in local time, or a dash."""
    if not text:
        return "-"
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")


def is_past(text: str | None) -> bool:
    return bool(text) and datetime.fromisoformat(str(text)) <= datetime.now(UTC)


def ago(text: str | None) -> str:
    """How long ago a time of the API is."""
    if not text:
        return "never"
    seconds = (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
