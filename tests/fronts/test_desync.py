"""Request smuggling through a reverse proxy: it and Strake never count different requests in the same bytes."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time

import pytest

from tests.support.fronts import Front
from tests.support.raw import get, read
from tests.support.running import Endpoint, Strake
from tests.support.smuggling import HARMLESS, REFUSED, fill
from tests.support.upstream import Exchange, Upstream, eventually

CORPUS = {**REFUSED, **{name: raw for name, (raw, _) in HARMLESS.items()}}
# With nginx alone, in `make check`, those that have broken servers most often.
SHORT = [
    "content-length and chunked",
    "two different content-lengths",
    "space before the colon of transfer-encoding",
    "vertical tab before chunked",
    "coding after chunked",
    "chunk without its line end",
    "line feed in a chunk extension",
    "content-length as a trailer",
    "bare line feed in a trailer",
    "folded transfer-encoding",
    "offer of HTTP/2 with content-length and chunked",
    "request behind a close",
    "trailer",
]


async def echo_id(exchange: Exchange) -> None:
    """Respond with the id of the request, and with whether it was the smuggled one."""
    await exchange.respond(200, [("X-Path", exchange.path)], exchange.header("x-id") or b"no id")


@pytest.mark.parametrize("name", CORPUS if "FRONTS" in os.environ else SHORT)
@pytest.mark.parametrize("pause", [False, True], ids=["at once", "in pieces"])
def test_front_and_strake_count_the_same_requests(
    name: str, pause: bool, front: Front, behind: Strake, upstream: Upstream
) -> None:
    """A request that only Strake sees would have a response too many, which the next client on the connection gets."""
    upstream.default = echo_id
    key = f"sk-{secrets.token_hex(16)}"  # tells this test's requests from late ones of another
    endpoint = behind.connect(upstream.url, key=key)
    raw = fill(CORPUS[name], endpoint)

    def arrived() -> list[Exchange]:
        mine = f"Bearer {key}".encode()
        return [
            exchange
            for exchange in upstream.exchanges
            if exchange.body_complete and mine in exchange.all("authorization")
        ]

    with front.connected() as connection:
        for piece in [raw[: len(raw) // 2], raw[len(raw) // 2 :]] if pause else [raw]:
            with contextlib.suppress(OSError):
                connection.sendall(piece)
        received = read(connection, silence=0.4).raw
        end = time.monotonic() + 20
        while len(arrived()) > count_of(received) and time.monotonic() < end:
            received += read(connection, silence=0.4).raw
        forwarded = arrived()
    assert len(forwarded) <= count_of(received), (received[:500], [exchange.raw_head for exchange in forwarded])
    assert not [text for text in upstream.malformed if not text.startswith(("chunk size b''", "half a head"))]
    # Caddy encodes what the others refuse.
    assert {exchange.path for exchange in forwarded} <= {"/x", "/smuggled", "/", "/x%23y", "/caf%C3%A9"}
    victims_are_served(front, endpoint)


def count_of(received: bytes) -> int:
    """The number of final responses."""
    return len(re.findall(rb"HTTP/1\.[01] [2-9]\d\d ", received))


def victims_are_served(front: Front, endpoint: Endpoint) -> None:
    """Others, on the same connections between the front and Strake, get the responses to their own requests."""
    for number in range(3):
        identity = secrets.token_hex(8).encode()
        with front.connected() as connection:
            connection.sendall(get(endpoint, f"/victim-{number}", f"X-Id: {identity.decode()}", "Connection: close"))
            received = read(connection, silence=10)
        assert received.status == 200, received.raw[:300]
        assert f"/victim-{number}".encode() in received.all("x-path"), received.raw[:300]
        assert identity in received.body
        assert received.count == 1


def test_idle_connections_are_used_again(front: Front, endpoint: Endpoint, upstream: Upstream) -> None:
    """Otherwise a response too many would reach nobody, and the tests above would show nothing."""
    upstream.default = echo_id
    victims_are_served(front, endpoint)
    eventually(lambda: len(upstream.exchanges) == 3)
