"""Decides whether a request would mint a credential at its provider (credentials/minting.py has the paths)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from credentials import destinations, minting
from credentials.errors import InvalidDestination
from proxy.http.target import decodings

# What a server may ignore in a decoded path: parameters, what looks like a query or a fragment, dots and spaces at the
# end of a segment, and repeated slashes.
_IGNORED = re.compile(rb";[^/]*|[?#].*|(?<![. ])[. ]+(?=/|\Z)|/+(?=/)", re.DOTALL)
_PERCENT, _SEMICOLON, _DOT = b"%;."
_MAX_SEGMENTS = 8  # of a pattern

Pattern = tuple[bytes, ...]  # segments from the end, in lower case


class Rules(NamedTuple):
    """The paths that mint at one destination. `names` are the segments one of which every such path ends with."""

    base_path: bytes
    names: frozenset[bytes]
    writes: tuple[Pattern, ...]
    any_method: tuple[Pattern, ...]

    def forbid(self, method: str, path: bytes) -> bool:
        """Return whether a request hands out a credential. `path` has been checked.

        A path is compared in any spelling that a server may take for the documented one: another case,
        percent-encoding, path parameters, repeated slashes, dots at the end of a segment.
        """
        if _PERCENT in path or _SEMICOLON in path or (_DOT in path and b"./" in path):
            return any(_mints(self, method, _IGNORED.sub(b"", decoded)) for decoded in decodings(path))
        return _mints(self, method, path)


def mints(provider: str, destination_url: str, method: str, path: bytes) -> bool:
    """Return whether a request to a destination hands out a credential, as `Rules.forbid` decides."""
    found = rules(provider, destination_url)
    return found is not None and found.forbid(method, path)


def _mints(rules: Rules, method: str, path: bytes) -> bool:
    path = path.lower().rstrip(b"/.")
    # Nearly every request ends here.
    if rules.names and rules.names.isdisjoint(path.replace(b":", b"/").rsplit(b"/", 3)):
        return False
    if method in minting.WRITES:
        patterns = rules.writes + rules.any_method
    elif method in minting.ANY_METHOD:
        patterns = rules.any_method
    else:
        return False
    segments = (rules.base_path + path).rsplit(b"/", _MAX_SEGMENTS)[:0:-1]
    return any(_ends_with(segments, pattern) for pattern in patterns)


def _ends_with(segments: list[bytes], pattern: Pattern) -> bool:
    return len(segments) >= len(pattern) and all(
        segment.endswith(wanted[1:]) if wanted[:1] == b"*" else segment == wanted
        for wanted, segment in zip(pattern, segments, strict=False)
    )


@lru_cache(maxsize=4096)
def rules(provider: str, destination_url: str) -> Rules | None:
    """The rules of one destination, or None if nothing mints there."""
    try:
        destination = destinations.parse(destination_url)
    except InvalidDestination:
        return None  # edited in the database: nothing is forwarded there
    found = minting.paths_of(provider, destination.host)
    if not found:
        return None
    writes = tuple(_pattern(path) for paths in found for path in paths.writes)
    any_method = tuple(_pattern(path) for paths in found for path in paths.any_method)
    names = {_name(pattern) for pattern in writes + any_method}
    return Rules(
        destination.base_path.lower().encode(), frozenset(names if b"" not in names else ()), writes, any_method
    )


def _pattern(path: str) -> Pattern:
    return tuple(path.encode().split(b"/")[:0:-1])


def _name(pattern: Pattern) -> bytes:
    """The last segment that is not a wildcard, or what follows a colon there. Empty if every path mints."""
    return next((segment.rpartition(b":")[2] for segment in pattern if segment != b"*"), b"")
