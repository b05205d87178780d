"""The path patterns of a token: `*` matches within a segment, `**` across segments.

The matcher is a Shift-And automaton, a nondeterministic finite automaton (NFA) whose states are the bits of an integer
(Baeza-Yates and Gonnet, "A New Approach to Text Searching", 1992). It reads each byte of the path once. A regular
expression with several wildcards backtracks, so a malicious pattern could block a worker for hours.
"""

from __future__ import annotations

import re

_SLASH = ord("/")


class PathPatterns:
    """`METHOD /pattern` entries, compiled into one automaton. The method `*` stands for any."""

    def __init__(self, entries: tuple[str, ...]) -> None:
        self._literals: set[tuple[str, bytes]] = set()  # patterns without wildcards
        # Bit masks of states. Each state is a position in a pattern.
        self._initial = 0
        self._wildcards = 0
        self._double_wildcards = 0
        self._advancing = [0] * 256  # by byte: the states that this byte moves on from
        self._accepting: list[tuple[str, int]] = []  # method and final state of each pattern
        state = 1
        for entry in entries:
            method, _, pattern = entry.partition(" ")
            if "*" not in pattern:
                self._literals.add((method, pattern.encode()))
                continue
            self._initial |= state
            for part in re.findall(r"\*+|[^*]", pattern):
                if part[0] == "*":
                    self._wildcards |= state
                    self._double_wildcards |= state if len(part) > 1 else 0
                else:
                    self._advancing[ord(part)] |= state
                state <<= 1
            self._accepting.append((method, state))
            state <<= 1
        self._initial |= (self._initial & self._wildcards) << 1

    def match(self, method: str, path: bytes) -> bool:
        """Return whether an entry allows `method` on the whole of `path`. Takes time linear in the path's length."""
        if (method, path) in self._literals or ("*", path) in self._literals:
            return True
        wildcards, double_wildcards, advancing = self._wildcards, self._double_wildcards, self._advancing
        states = self._initial
        for byte in path:
            staying = double_wildcards if byte == _SLASH else wildcards
            states = (states & advancing[byte]) << 1 | states & staying
            if not states:
                return False
            states |= (states & wildcards) << 1  # a wildcard also matches nothing
        return any(states & final and allowed in {"*", method} for allowed, final in self._accepting)
