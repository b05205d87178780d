"""Portions of a batch, with a pause between two, so that the log's thread does not hold up the event loop.

The two share an interpreter, and often a processor. A processor goes to another thread only after some milliseconds,
which is long for a request. So the thread stops by itself every few tenths of a millisecond.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Row = TypeVar("Row")

MIN_ROWS = 64  # about 0.4 ms
MAX_PORTIONS = 50  # on a busy processor, the thread may wait a few milliseconds after each
PAUSE_SECONDS = 0.000_05


def portions(rows: Sequence[Row], size: int = MIN_ROWS) -> Iterator[Sequence[Row]]:
    """Return `rows` in portions of `size`, or larger ones if there are many. Sleeps between two of them."""
    size = max(size, -(-len(rows) // MAX_PORTIONS))
    for start in range(0, len(rows), size):
        if start:
            time.sleep(PAUSE_SECONDS)
        yield rows[start : start + size]
