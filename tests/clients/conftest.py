"""The clients that `make clients` installs, and the table that it prints.

The variable CLIENTS names their folder. Without it, one program of the tests' own environment runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.programs import Program
from tests.support.running import Strake

CLIENTS = Path(os.environ["CLIENTS"]) if os.environ.get("CLIENTS") else None
DOMAIN = "endpoints.localhost"
collect_ignore = [] if CLIENTS else ["test_mcp.py"]


@dataclass
class Row:
    """One run of a program, and how many requests it sent.

    `to_message` is the time to its answer or message, `waited` the part of that after its first request.
    """

    program: str
    form: str
    token: str
    to_message: float | None
    waited: float
    in_all: float
    requests: int


_ROWS: list[Row] = []


def executable(program: Program) -> Path | None:
    """Where a program is, or None if it is not installed."""
    path = CLIENTS / program.command if CLIENTS else Path(sys.executable).with_name(program.name)
    return path if path.exists() else None


@pytest.fixture
def table() -> list[Row]:
    return _ROWS


@pytest.fixture(scope="session")
def own_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strake]:
    """A running Strake whose endpoints have hosts."""
    strake = Strake(tmp_path_factory.mktemp("own-hosts") / "strake", {"STRAKE_PROXY_DOMAIN": DOMAIN})
    # Not localhost, of which the domain is a part.
    strake.environment |= {"STRAKE_BASE_URL": strake.url, "STRAKE_RUNTIME": f"{strake.home}-run"}
    with strake:
        yield strake


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the runs as a Markdown table.

    A cell has the seconds from the start of the program to the answer or message, those from its first request, and in
    brackets the number of requests.
    """
    if not _ROWS:
        return
    terminalreporter.section("clients")
    kinds = ("right", "wrong", "revoked", "limited")
    terminalreporter.line(f"| client | URL | {' | '.join(kinds)} |")
    terminalreporter.line("| --- " * (len(kinds) + 2) + "|")
    cells = {(row.program, row.form, row.token): _cell(row) for row in _ROWS}
    for program, form in sorted(
        {(row.program, row.form) for row in _ROWS}, key=lambda pair: (pair[0], pair[1] != "path")
    ):
        values = " | ".join(cells.get((program, form, kind), "") for kind in kinds)
        terminalreporter.line(f"| {program} | {form} | {values} |")


def _cell(row: Row) -> str:
    if row.to_message is None:
        return f"no message in {row.in_all:.0f} s ({row.requests})"
    ended = f", ends after {row.in_all:.0f}" if row.in_all - row.to_message > 5 else ""
    return f"{row.to_message:.1f} / {row.waited:.1f} ({row.requests}){ended}"
