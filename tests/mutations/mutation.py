"""What a mutation is, and which tests must notice it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutation:
    """An edit that breaks a promise of SECURITY.md, or, if `promise` is empty, something that only `tests` check.

    `before` is plain text that occurs once in the file, and `after` replaces it. For a promise, `tests` are in addition
    to those that SECURITY.md names.
    """

    promise: str
    summary: str
    before: str
    after: str
    tests: tuple[str, ...] = ()

    def tests_in(self, folder: Path) -> list[str]:
        """Return the node ids of the tests that must fail, by the SECURITY.md of `folder`."""
        return [*(promised_tests(self.promise, folder) if self.promise else []), *self.tests]


def promised_tests(promise: str, folder: Path = ROOT) -> list[str]:
    """Return the node ids of the tests that SECURITY.md names for a promise."""
    (row,) = re.findall(rf"^\| {promise} \| .*\| (.+) \|$", (folder / "SECURITY.md").read_text(), re.MULTILINE)
    return re.findall(r"`(tests/[^`]+)`", row)


def promises(folder: Path = ROOT) -> list[str]:
    """Return the ids of all promises in SECURITY.md."""
    return re.findall(r"^\| (P\d+) \|", (folder / "SECURITY.md").read_text(), re.MULTILINE)
