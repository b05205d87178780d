"""The path patterns of a token: `*` matches within a segment, `**` across segments.

Matched in one pass over the path, in time that grows with its length and no faster. A regular expression would try
every way of dividing a path among several wildcards: one written in bad faith would stop a worker for hours.
"""

from __future__ import annotations

import re

_SLASH = ord("/")


class Globs:
    """`METHOD /glob` entries, as one automaton whose states are the bits of a number: one for each place in a glob."""

    def __init__(self, entries: tuple[str, ...]) -> None:
        self._plain: set[tuple[str, bytes]] = set()  # those without wildcards
        self._start = 0
        self._wild = 0  # places of wildcards,
        self._across = 0  # and of those that match a slash
        self._steps = [0] * 256  # places that a byte leads on from
        self._ends: list[tuple[str, int]] = []
        place = 1
        for entry in entries:
            method, _, glob = entry.partition(" ")
            if "*" not in glob:
                self._plain.add((method, glob.encode()))
                continue
            self._start |= place
            for part in re.findall(r"\*+|[^*]", glob):
                if part[0] == "*":
                    self._wild |= place
                    self._across |= place if len(part) > 1 else 0
                else:
                    self._steps[ord(part)] |= place
                place <<= 1
            self._ends.append((method, place))
            place <<= 1
        self._start |= (self._start & self._wild) << 1

    def match(self, method: str, path: bytes) -> bool:
        """Whether one of the entries allows `method` on the whole of `path`."""
        if (method, path) in self._plain or ("*", path) in self._plain:
            return True
        wild, across, steps, places = self._wild, self._across, self._steps, self._start
        for byte in path:
            places = (places & steps[byte]) << 1 | places & (across if byte == _SLASH else wild)
            if not places:
                return False
            places |= (places & wild) << 1  # a wildcard may match nothing
        return any(places & end and allowed in {"*", method} for allowed, end in self._ends)
