"""A client that closes its sending side gets its response. One that has left ends its request at the provider."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.support.raw import PATIENCE, connected, get, read, reset
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Exchange, Upstream, early, eventually, silence

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("size", [0, 10, 1_000_000])
def test_half_closed_client_gets_its_response(
    size: int, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    async def answer(exchange: Exchange) -> None:
        await asyncio.sleep(0.6)  # several polls
        await exchange.respond(200, [], b"x" * 300_000)

    upstream.on("/x", answer)
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint, "/x", f"Content-Length: {size}", method="POST") + b"b" * size)
        connection.shutdown(socket.SHUT_WR)
        response = read(connection, silence=PATIENCE)
    assert response.closed
    assert response.raw.removeprefix(CONTINUE).startswith(b"HTTP/1.1 200 ")
    assert response.raw.count(CONTINUE) <= 1
    assert response.raw.endswith(b"x" * 300_000)
    assert upstream.last.body_size == size


def test_half_closed_client_whose_body_waits_gets_its_response(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """Strake has stopped reading, because the provider does."""

    @early
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.8)
        await exchange.read_body()
        await exchange.respond(200, [], b"read")

    upstream.on("/x", slow)
    size = 30_000_000
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint, "/x", f"Content-Length: {size}", method="POST") + b"b" * size)
        connection.shutdown(socket.SHUT_WR)
        response = read(connection, silence=PATIENCE)
    assert response.raw.endswith(b"read")


def test_page_is_answered_after_a_half_close(strake: Strake) -> None:
    with connected(strake.address) as connection:
        connection.sendall(b"GET /security/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        response = read(connection, silence=PATIENCE)
    assert b"HTTP/1.1 200 OK" in response.raw
    assert response.closed


@pytest.mark.parametrize("how", ["close", "reset", "HTTP/1.0"])
def test_client_that_leaves_ends_its_request(how: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", silence)
    raw = get(endpoint, "/x")
    with connected(strake.address) as connection:
        connection.sendall(raw.replace(b"HTTP/1.1", b"HTTP/1.0") if how == "HTTP/1.0" else raw)
        eventually(lambda: len(upstream.exchanges) == 1)
        if how == "reset":
            reset(connection)
    eventually(lambda: upstream.last.closed_at is not None)


def test_incomplete_request_is_not_answered(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint, "/x", "Content-Length: 10", method="POST") + b"123")
        connection.shutdown(socket.SHUT_WR)
        assert read(connection, silence=PATIENCE).raw == b""
