"""`/livez` and `/readyz`, for load balancers and orchestrators. They work for any Host and without Django.

`/livez` succeeds while the process serves requests. `/readyz` succeeds while it can forward: the database answers a
read, a master key is loaded, and no shutdown has begun.
"""

from __future__ import annotations

import mmap
from http import HTTPStatus

from credentials.errors import SealError
from credentials.vault import keyring
from proxy.access.route_lookup import Lookup
from proxy.errors import StoreUnavailable
from proxy.http.request import ProxyRequest
from proxy.server.exchange import Exchange

LIVE, READY = b"/livez", b"/readyz"
PATHS = frozenset({LIVE, READY})

# One byte that the master process shares with its workers, because it is mapped before the fork.
_stopping = mmap.mmap(-1, 1)


def begin_stopping() -> None:
    """Fail `/readyz` in every worker from now on."""
    _stopping[0] = 1


def is_stopping() -> bool:
    return _stopping[0] == 1


async def respond(exchange: Exchange, lookup: Lookup) -> None:
    """Answer a probe with 200, or 503 and the reason, as one word of plain text."""
    reason = "" if exchange.path == LIVE else await _not_ready(lookup)
    headers = [
        (b"content-type", b"text/plain"),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if exchange.path == READY:
        # So that `manage.py doctor` can see if the proxies in front pass the client's address on.
        headers.append((b"x-strake-client", str(ProxyRequest(exchange).address or "-").encode()))
    status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
    exchange.respond(status, headers, (reason or "ok").encode())


async def _not_ready(lookup: Lookup) -> str:
    if is_stopping():
        return "stopping"
    try:
        keyring.current()
        await lookup.find("", b"")
    except SealError:
        return "keyring"
    except StoreUnavailable:
        return "database"
    return ""
