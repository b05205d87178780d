"""The hop marker: finds requests that come back to this Strake through another proxy.

Connecting to Strake's own sockets is refused. A content delivery network or another gateway in between hides them, so
requests to destinations that people choose carry the id of this installation. The fixed destinations of providers are
no proxies, and get none.
"""

from __future__ import annotations

import hashlib
import re
import socket
from functools import cache

from django.conf import settings

from proxy.errors import Loop
from proxy.http.names import Headers

HEADER = b"x-strake-hop"
# More installations behind one another are a mistake too.
MAX_HOPS = 8
_ID = re.compile(rb"[0-9a-f]{16}")


@cache
def own_id() -> bytes:
    """The id of this installation: the same on all of its hosts, and without meaning for anybody else.

    All hosts share a base URL. On loopback, many machines have the same one, and an installation has one host.
    """
    parts = ["strake-hop", settings.STRAKE_BASE_URL]
    if settings.STRAKE_LOOPBACK:
        parts += [socket.gethostname(), str(settings.STRAKE_HOME.path)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16].encode()


def passed(headers: Headers) -> list[bytes]:
    """Return the ids of the installations that a request has passed. Raises `Loop` if this one is among them."""
    values = [value for name, value in headers if name == HEADER]
    ids: list[bytes] = _ID.findall(b",".join(values))
    if own_id() in ids or len(ids) >= MAX_HOPS:
        raise Loop
    return ids


def mark(headers: Headers, ids: list[bytes]) -> None:
    """Add the marker with the ids that a request has passed, and this installation's own, to headers that go out."""
    headers.append((HEADER, b", ".join([*ids, own_id()]) if ids else own_id()))
