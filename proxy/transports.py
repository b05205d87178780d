"""What asyncio's transports do not offer: resetting a connection, and seeing how its peer is while not reading."""

from __future__ import annotations

import asyncio
import select
import socket
import struct

_LINGER_ZERO = struct.pack("ii", 1, 0)


def reset(transport: asyncio.Transport) -> None:
    """Close a connection with an RST, which drops unsent data. A FIN would wait until the peer has read it all.

    The transport may be closing, but not closed: its socket must still be open.
    """
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    transport.abort()


def has_peer_closed(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed its side. The event loop does not notice this while reading is paused."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def is_reset(transport: asyncio.Transport) -> bool:
    """Whether the peer has answered what was sent by an RST: it had left, and not only closed its sending side."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return bool(poll.poll(0))
