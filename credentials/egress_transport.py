"""An httpx transport that connects only where an egress policy allows it.

The policy is applied where sockets are opened. The request therefore keeps its host name, for the Host header, SNI and
the certificate, while the connection goes to the checked address. No other code of httpx or httpcore resolves names or
connects.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Hashable

from credentials import resolver
from credentials.deadline_transport import Deadline, DeadlineTransport
from credentials.egress import AddressInfo, EgressPolicy


class EgressTransport(DeadlineTransport):
    """Sends requests to the addresses that `policy` allows, with one deadline for everything.

    `owner_id` is the person whose share of look-ups is used, or None for an operator's command. Requests raise
    `credentials.egress.ForbiddenAddress`, `credentials.resolver.NotResolved`, `TimeoutError` or another `OSError`, or
    `httpcore.ProtocolError`.
    """

    def __init__(self, policy: EgressPolicy, *, seconds: float, owner_id: Hashable = None) -> None:
        super().__init__(self._connect_to_host, seconds=seconds, ssl_context=ssl.create_default_context())
        self._policy = policy
        self._owner_id = owner_id

    def _connect_to_host(self, host: str, port: int, deadline: Deadline) -> socket.socket:
        found = resolver.shared().resolve(host, self._owner_id, seconds=deadline.remaining())
        addresses = self._policy.check(host, port, found)
        for position, info in enumerate(addresses, 1):
            # An equal share of the time left, so that one silent address does not use all of it.
            seconds = deadline.remaining() / (len(addresses) - position + 1)
            try:
                return self._connect(info, seconds)
            except OSError:
                if position == len(addresses):
                    raise
        raise OSError(f"{host} has no address")

    def _connect(self, info: AddressInfo, seconds: float) -> socket.socket:
        connection = self._policy.create_socket(info)
        try:
            connection.settimeout(seconds)
            connection.connect(info[4])
        except BaseException:
            connection.close()
            raise
        return connection
