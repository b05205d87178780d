"""Tunnels through the company's proxy on the event loop."""

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
    EgressProxyInvalid,
    EgressProxyUnauthorized,
    EgressProxyUnreachable,
)
from credentials.resolver import Addresses

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
