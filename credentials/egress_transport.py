"""An httpx transport that connects only where an egress policy allows it.

The policy is applied where sockets are opened. The request therefore keeps its host name, for the Host header, SNI and
the certificate, while the connection goes to the checked address. No other code of httpx or httpcore resolves names or
connects.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable, Sequence

from django.conf import settings

from credentials import egress_proxy, egress_tls, resolver
from credentials.deadline_transport import Deadline, DeadlineTransport
from credentials.egress import AddressInfo, EgressPolicy
from credentials.egress_proxy import (
    MAX_ATTEMPTS,
    EgressProxy,
    EgressProxyError,
    EgressProxyInvalid,
    EgressProxyUnauthorized,
    EgressProxyUnreachable,
)


class EgressTransport(DeadlineTransport):
    """Sends requests to the addresses that `policy` allows, with one deadline for everything.

    `owner_id` is the person whose share of look-ups is used, or None for an operator's command. Requests raise
    `credentials.egress.ForbiddenAddress`, `credentials.resolver.NotResolved`,
    `credentials.egress_proxy.EgressProxyError`, `TimeoutError` or another `OSError`, or `httpcore.ProtocolError`.
    """

    def __init__(self, policy: EgressPolicy, *, seconds: float, owner_id: Hashable = None) -> None:
        super().__init__(self._connect_to_host, seconds=seconds, ssl_context=egress_tls.client_context())
        self._policy = policy
        self._owner_id = owner_id

    def _connect_to_host(self, host: str, port: int, deadline: Deadline) -> socket.socket:
        """Connect directly, or through the company's proxy."""
        proxy: EgressProxy | None = settings.STRAKE_EGRESS_PROXY
        if proxy is not None and proxy.gets_name(self._policy, host, port):
            return self._open_tunnel(proxy, [f"{host}:{port}"], deadline)
        found = resolver.shared().resolve(host, self._owner_id, seconds=deadline.remaining())
        addresses = self._policy.check(host, port, found)
        if proxy is not None:
            direct = proxy.reached_directly(host, addresses)
            if not direct:
                return self._open_tunnel(proxy, egress_proxy.authorities(addresses), deadline)
            addresses = direct
        return _connect_to_first(addresses, self._connect, deadline)

    def _connect(self, info: AddressInfo, seconds: float) -> socket.socket:
        return _connect(self._policy.create_socket(info), info, seconds)

    def _open_tunnel(self, proxy: EgressProxy, authorities: Sequence[str], deadline: Deadline) -> socket.socket:
        """Return a connection to the first of `authorities` to which the proxy can connect.

        Raises one of the `EgressProxyError`s, or `TimeoutError`.
        """
        try:
            found = resolver.shared().resolve(proxy.host, self._owner_id, seconds=deadline.remaining())
        except OSError:
            raise EgressProxyUnreachable from None
        infos = egress_proxy.infos_of(found, proxy.port)
        tried = authorities[:MAX_ATTEMPTS]
        failure = EgressProxyError()
        for position, authority in enumerate(tried):
            try:
                return _connect_by(proxy, infos, authority, Deadline(deadline.remaining() / (len(tried) - position)))
            except (EgressProxyUnauthorized, EgressProxyInvalid):
                raise  # it would say so for every address
            except EgressProxyError as error:
                failure = error
        raise failure


def _connect_to_first(
    addresses: Sequence[AddressInfo], connect: Callable[[AddressInfo, float], socket.socket], deadline: Deadline
) -> socket.socket:
    for position, info in enumerate(addresses, 1):
        # An equal share of the time left, so that one silent address does not use all of it.
        seconds = deadline.remaining() / (len(addresses) - position + 1)
        try:
            return connect(info, seconds)
        except OSError:
            if position == len(addresses):
                raise
    raise OSError("the host has no address")


def _connect(connection: socket.socket, info: AddressInfo, seconds: float) -> socket.socket:
    try:
        connection.settimeout(seconds)
        connection.connect(info[4])
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_by(proxy: EgressProxy, infos: Sequence[AddressInfo], authority: str, deadline: Deadline) -> socket.socket:
    """Open a tunnel to one authority. Raises one of the `EgressProxyError`s."""
    try:
        connection = _connect_to_first(
            infos, lambda info, seconds: _connect(socket.socket(*info[:3]), info, seconds), deadline
        )
    except OSError:
        raise EgressProxyUnreachable from None
    try:
        connection.settimeout(deadline.remaining())
        connection.sendall(proxy.request(authority))
        received = b""
        while not egress_proxy.is_complete(received):
            connection.settimeout(deadline.remaining())
            received = egress_proxy.joined(received, connection.recv(4096))
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
