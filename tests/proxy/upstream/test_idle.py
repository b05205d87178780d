"""Idle connections: never shared between credentials, bounded, and closed before the provider closes them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Hashable
from typing import Any

import pytest

from proxy.upstream import idle as idle_module
from proxy.upstream import pool as pool_module
from proxy.upstream.origin import Origin
from proxy.upstream.pool import ConnectionPool
from tests.support.upstream import Upstream, fixed

CREDENTIALS: list[Hashable] = [("alice's", b"iv 1"), ("mallory's", b"iv 2")]


class CarelessServer:
    """Takes the body of a GET for the next request, as servers may that do not expect one. Notes what it reads."""

    def __init__(self) -> None:
        self.connections: list[bytearray] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = bytearray()
        self.connections.append(seen)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                seen += head
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                if length and not head.startswith((b"GET", b"HEAD", b"DELETE", b"OPTIONS")):
                    seen += await reader.readexactly(int(length[1]))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def careless() -> AsyncIterator[tuple[CarelessServer, int]]:
    server = CarelessServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    yield server, listening.sockets[0].getsockname()[1]
    listening.close()


@pytest.fixture
async def pool(settings: Any) -> AsyncIterator[ConnectionPool]:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.1/32"]
    pool = ConnectionPool()
    yield pool
    pool.close()


async def send(
    pool: ConnectionPool,
    port: int,
    credential: Hashable = 1,
    *,
    owner: Hashable = 1,
    method: str = "GET",
    path: bytes = b"/x",
    body: bytes = b"",
) -> None:
    headers = [(b"host", b"a"), *([(b"content-length", b"%d" % len(body))] if body else [])]
    key_header = (b"authorization", bytearray(b"Bearer of " + repr(credential).encode()))
    origin = Origin("http", "127.0.0.1", port)
    response = await pool.send(
        origin, method, path, headers, key_header, body, credential_id=credential, owner_id=owner, owner_email=""
    )
    while not response.finished:
        await response.read()
    response.close()


async def test_credentials_share_no_connection(pool: ConnectionPool, upstream: Upstream) -> None:
    for _ in range(3):
        for credential in CREDENTIALS:
            await send(pool, upstream.port, credential)
    connections = {exchange.header("authorization"): exchange.connection for exchange in upstream.exchanges}
    assert len(upstream.exchanges) == 6
    assert len({id(connection) for connection in connections.values()}) == 2
    for exchange in upstream.exchanges:
        assert connections[exchange.header("authorization")] is exchange.connection


async def test_new_key_uses_a_new_connection(pool: ConnectionPool, upstream: Upstream) -> None:
    await send(pool, upstream.port, ("alice's", b"iv 1"))
    await send(pool, upstream.port, ("alice's", b"another iv"))
    assert len({id(exchange.connection) for exchange in upstream.exchanges}) == 2


async def test_request_never_becomes_part_of_another(
    pool: ConnectionPool, careless: tuple[CarelessServer, int]
) -> None:
    """Mallory's body is the head of a request that takes what follows on the connection for its own body."""
    server, port = careless
    trap = b"POST /mallory HTTP/1.1\r\nhost: a\r\ncontent-length: 65536\r\n\r\n"
    alice, mallory = CREDENTIALS
    await send(pool, port, mallory, path=b"/trap", body=trap)
    await send(pool, port, alice, path=b"/alice")
    await send(pool, port, mallory, path=b"/again")
    assert len(server.connections) == 3
    assert [b"/alice" in seen for seen in server.connections] == [False, True, False]
    assert [b"/again" in seen for seen in server.connections] == [False, False, True]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
async def test_connection_is_closed_after_an_odd_body(method: str, pool: ConnectionPool, upstream: Upstream) -> None:
    await send(pool, upstream.port, method=method, body=b"x")
    assert len(pool._idle) == 0
    await send(pool, upstream.port, method=method)
    assert len(pool._idle) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "QUERY"])
async def test_connection_is_kept_after_a_usual_body(method: str, pool: ConnectionPool, upstream: Upstream) -> None:
    await send(pool, upstream.port, method=method, body=b"x")
    assert len(pool._idle) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("timeout=5", 4),
        ("timeout=5, max=100", 4),
        ("max=100, Timeout=5", 4),
        ("max=100,timeout = 5", 4),
        ("timeout=3600", 25),
        ("timeout=1", 0),
        ("timeout=0", -1),
        ("max=5", 25),
        ("xtimeout=5", 25),
    ],
)
def test_announced_timeout_is_honoured(value: str, seconds: float) -> None:
    assert pool_module._keepalive_seconds([(b"X", b"timeout=9"), (b"Keep-Alive", value.encode())]) == seconds


async def test_connection_is_closed_before_the_announced_time(pool: ConnectionPool, upstream: Upstream) -> None:
    upstream.on("/brief", fixed(200, [("Keep-Alive", "timeout=1")]))
    upstream.on("/long", fixed(200, [("Keep-Alive", "timeout=100")]))
    await send(pool, upstream.port, path=b"/brief")
    assert len(pool._idle) == 0
    await send(pool, upstream.port, path=b"/long")
    assert len(pool._idle) == 1


async def test_idle_connections_are_bounded(
    pool: ConnectionPool, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the limit in all, the owner of the most loses the oldest ones."""
    monkeypatch.setattr(idle_module, "MAX_IDLE", 8)
    for credential in range(4):
        await send(pool, upstream.port, f"alice's {credential}", owner="alice")
    for credential in range(40):
        await send(pool, upstream.port, f"mallory's {credential}", owner="mallory")
        assert len(pool._idle) <= 8
    before = len(upstream.connections)
    for credential in range(4):
        await send(pool, upstream.port, f"alice's {credential}", owner="alice")
    await send(pool, upstream.port, "mallory's 39", owner="mallory")
    assert len(upstream.connections) == before
    await send(pool, upstream.port, "mallory's 0", owner="mallory")
    assert len(upstream.connections) == before + 1


async def test_idle_connections_of_a_credential_are_bounded(
    pool: ConnectionPool, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle_module, "MAX_IDLE_PER_KEY", 2)
    await asyncio.gather(*(send(pool, upstream.port) for _ in range(6)))
    assert len(pool._idle) <= 2
    assert sum(1 for _ in pool._idle) == len(pool._idle)
