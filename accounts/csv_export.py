"""Rows of CSV that are safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable

# What a spreadsheet may take for a formula: one of the first group at the start of a cell, or after whatever separates
# cells in some country, or after a quote that ends one. The last four are full-width forms, treated like ASCII by some.
_FORMULA = re.compile("(^|[;,|\t\r\n\"'])([ \u00a0]*)(?=[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20])")


class _Echo:
    """A file-like object whose `write` returns the line instead of storing it."""

    def write(self, line: str) -> str:
        return line


def csv_line(values: Iterable[str]) -> str:
    """Return one line, with its line break.

    Every cell is quoted, and `csv.reader` restores it, with an apostrophe before each character that could start a
    formula (OWASP, CSV injection).
    """
    writer = csv.writer(_Echo(), quoting=csv.QUOTE_ALL)
    line: str = writer.writerow([_escape_formula(value) for value in values])
    return line


def _escape_formula(value: str) -> str:
    return _FORMULA.sub(r"\1\2'", value)
