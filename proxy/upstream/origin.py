"""Where requests for an endpoint go."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from credentials import destinations


class Origin(NamedTuple):
    """Part of the key of idle connections. None is used for another name, even on the same address."""

    scheme: str
    host: str
    port: int


@lru_cache(maxsize=4096)
def destination(url: str) -> tuple[Origin, bytes, bytes]:
    """Parse a destination URL. Raises `InvalidDestination`.

    Returns its origin, the value of the Host header, and the base path without a trailing slash.
    """
    parsed = destinations.parse(url)
    origin = Origin(parsed.scheme, parsed.host, parsed.port)
    return origin, parsed.netloc.encode(), parsed.base_path.encode()
