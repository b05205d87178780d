"""Tunnels through the company's proxy on the event loop.

UpstreamUnreachable (502)
├── ProxyUnreachable (502)
├── ProxyRefused (502)
└── ProxyFailed (502)
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

import aiohappyeyeballs

from credentials import egress_proxy
from credentials.egress import AddressInfo
from credentials.egress_proxy import (
    MAX_ATTEMPTS,
    EgressProxy,
    EgressProxyError,
    EgressProxyFailed,
    EgressProxyInvalid,
    EgressProxyRefused,
    EgressProxyUnauthorized,
    EgressProxyUnreachable,
)
from credentials.resolver import Addresses
from proxy.errors import UpstreamUnreachable


class ProxyUnreachable(UpstreamUnreachable):
    """The company's proxy does not answer, or is no HTTP proxy."""

    code = "egress_proxy_unreachable"
    message = "The proxy through which Strake reaches providers does not answer. Tell the operator."


class ProxyRefused(UpstreamUnreachable):
    """The company's proxy forbids the destination, or does not accept Strake's password."""

    code = "egress_proxy_refused"
    message = (
        "The proxy through which Strake reaches providers refused the connection. The operator's log has its status: "
        "with 407 it wants another user name or password, otherwise it does not allow this destination."
    )


class ProxyFailed(UpstreamUnreachable):
    """The company's proxy could not connect to the destination."""

    code = "egress_proxy_failed"
    message = (
        "The proxy through which Strake reaches providers could not connect to the provider. If it lasts, tell the "
        "operator."
    )


def failure(error: EgressProxyError) -> UpstreamUnreachable:
    """Return the error for a client. Its kind for the log has the proxy's status, and neither names nor addresses."""
    kind = f"{type(error).__name__}: {error.status}" if error.status else type(error).__name__
    match error:
        case EgressProxyUnauthorized() | EgressProxyRefused():
            return ProxyRefused(kind)
        case EgressProxyFailed():
            return ProxyFailed(kind)
    return ProxyUnreachable(kind)


Resolve = Callable[[str], Awaitable[Addresses]]


async def open_tunnel(
    proxy: EgressProxy, authorities: Sequence[str], resolve: Resolve, *, seconds: float
) -> socket.socket:
    """Return a socket that leads to the first of `authorities` to which the proxy can connect.

    Each gets an equal share of `seconds`. Raises one of the `EgressProxyError`s.
    """
    try:
        infos = egress_proxy.infos_of(await resolve(proxy.host), proxy.port)
    except OSError:
        raise EgressProxyUnreachable from None
    tried = authorities[:MAX_ATTEMPTS]
    failure = EgressProxyError()
    for authority in tried:
        try:
            async with asyncio.timeout(seconds / len(tried)):
                return await _connect(proxy, infos, authority)
        except (EgressProxyUnauthorized, EgressProxyInvalid):
            raise  # it would say so for every address
        except TimeoutError:
            failure = EgressProxyUnreachable()
        except EgressProxyError as error:
            failure = error
    raise failure


async def _connect(proxy: EgressProxy, infos: Sequence[AddressInfo], authority: str) -> socket.socket:
    try:
        connection = await aiohappyeyeballs.start_connection(infos, happy_eyeballs_delay=0.25, interleave=1)
    except OSError:
        raise EgressProxyUnreachable from None
    try:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, proxy.request(authority))
        received = b""
        while not egress_proxy.is_complete(received):
            received = egress_proxy.joined(received, await loop.sock_recv(connection, 4096))
    except EgressProxyError:
        connection.close()
        raise
    except OSError:
        connection.close()
        raise EgressProxyUnreachable from None
    except BaseException:
        connection.close()
        raise
    return connection
