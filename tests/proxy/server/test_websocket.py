"""The WebSocket protocol and its tunnel without the rest of Strake: timeouts, and data sent early."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from proxy.server.exchange import Exchange
from proxy.server.websocket import MAX_EARLY_BYTES
from proxy.upstream import tunnel
from tests.support.raw import connected, read, read_head
from tests.support.serving import Handler

Serve = Callable[[Handler], tuple[str, int]]
HANDSHAKE = (
    b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def join_echo(exchange: Exchange) -> None:
    """Join the client with a peer that sends back every byte."""
    near, far = socket.socketpair()
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(Echo, sock=far)
    upstream, _ = await loop.create_unix_connection(asyncio.Protocol, sock=near)
    upstream.pause_reading()
    assert exchange.websocket is not None
    await exchange.websocket.join([], upstream, b"")


def test_quiet_connection_stays_open(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only while the server stops does a short silence end a connection."""
    monkeypatch.setattr(tunnel, "DRAIN_SECONDS", 0.2)
    with connected(serve(join_echo)) as connection:
        connection.sendall(HANDSHAKE)
        assert read_head(connection).startswith(b"HTTP/1.1 101 ")
        time.sleep(0.7)
        connection.sendall(b"still here")
        assert connection.recv(100) == b"still here"


def test_idle_connection_is_closed(serve: Serve, settings: Any) -> None:
    settings.STRAKE_IDLE_SECONDS = 3
    with connected(serve(join_echo)) as connection:
        connection.sendall(HANDSHAKE)
        read_head(connection)
        time.sleep(1.5)
        started = time.monotonic()
        connection.sendall(b"a frame restarts the timeout")
        assert read(connection).closed
    assert time.monotonic() - started > 2


def test_handshake_is_parsed_like_any_request(serve: Serve) -> None:
    exchanges: list[Exchange] = []

    async def handle(exchange: Exchange) -> None:
        exchanges.append(exchange)
        assert exchange.websocket is not None
        exchange.websocket.respond(403, [(b"x-a", b"1")], b"no")

    target = b"/a%20b?c=%20d"
    with connected(serve(handle)) as connection:
        connection.sendall(HANDSHAKE.replace(b"/x", target))
        response = read(connection)
    assert (response.status, response.all("x-a"), response.body, response.closed) == (403, [b"1"], b"no", True)
    [exchange] = exchanges
    assert (exchange.method, exchange.is_http_1_0, exchange.more_body) == ("GET", False, False)
    assert (exchange.path, exchange.query, exchange.target) == (b"/a%20b", b"c=%20d", target)
    assert exchange.headers[0] == (b"host", b"a")
    assert exchange.headers[2] == (b"upgrade", b"websocket")
    assert [name for name, _ in exchange.passing] == [b"Sec-WebSocket-Version", b"Sec-WebSocket-Key"]


@pytest.mark.parametrize("pieces", [1, 2])
def test_too_much_early_data_resets_the_connection(pieces: int, serve: Serve) -> None:
    """Frames sent before the handshake's response are buffered, but not without limit."""

    over = threading.Event()

    async def handle(exchange: Exchange) -> None:
        await asyncio.to_thread(over.wait, 90)

    early = b"x" * (MAX_EARLY_BYTES + 1)
    sent = [HANDSHAKE + early] if pieces == 1 else [HANDSHAKE, early]
    with connected(serve(handle)) as connection:
        for piece in sent:
            connection.sendall(piece)
            time.sleep(0.1)
        assert read(connection).closed
    over.set()
