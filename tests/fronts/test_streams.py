"""Behind a reverse proxy: nothing is spooled, events arrive one by one, and a client that leaves is noticed (P14)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import select
import socket
import ssl
import threading

import pytest

from tests.support.fronts import Front
from tests.support.raw import get, read_head
from tests.support.running import Endpoint
from tests.support.upstream import Exchange, Script, Upstream, early, endless, eventually, fixed, head, raw

LARGE = 96 * 1024 * 1024  # more than the sockets on the way hold
PIECE = bytes(range(256)) * 256


def receive(connection: ssl.SSLSocket, size: int) -> bytes:
    """Read exactly so many bytes."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError(f"closed after {data[-200:]!r}")
        data += part
    return data


def receive_until(connection: ssl.SSLSocket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        part = connection.recv(64 * 1024)
        if not part:
            raise ConnectionError(f"closed after {data[-200:]!r}")
        data += part
    return data


def whole_head(connection: ssl.SSLSocket) -> tuple[bytes, bytes]:
    """Return a response's head and what was read behind it."""
    received, end, rest = receive_until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")
    return received + end, rest


class Progress:
    """A provider that sends or receives a large body, and counts."""

    def __init__(self) -> None:
        self.sent = 0
        self.released = threading.Event()

    def download(self, headers: list[tuple[str, str]]) -> Script:
        async def script(exchange: Exchange) -> None:
            await exchange.write(head(200, [*headers, ("Content-Length", str(LARGE))]))
            while self.sent < LARGE:
                await exchange.write(PIECE)
                self.sent += len(PIECE)

        return script

    def upload(self) -> Script:
        @early
        async def script(exchange: Exchange) -> None:
            while not self.released.is_set():  # noqa: ASYNC110  (the event belongs to another thread)
                await asyncio.sleep(0.01)
            await exchange.read_body()
            await exchange.respond(200, body=exchange.body_sha256.encode())

        return script

    def stalled(self) -> bool:
        """True once a second has passed without progress."""
        before = self.sent
        threading.Event().wait(1.0)
        return self.sent == before


@pytest.mark.parametrize("buffering", ["", "yes"])
def test_large_response_is_not_spooled(buffering: str, front: Front, endpoint: Endpoint, upstream: Upstream) -> None:
    """The client reads nothing while the provider sends. What nobody takes must stay with the provider."""
    progress = Progress()
    upstream.on("/large", progress.download([("X-Accel-Buffering", buffering)] if buffering else []))
    before = front.open_files()
    with front.connected(receive_buffer=64 * 1024, seconds=60) as connection:
        connection.sendall(get(endpoint, "/large"))
        _, rest = whole_head(connection)
        eventually(lambda: progress.sent, 20)
        eventually(progress.stalled, 60)
        assert progress.sent < LARGE
        assert front.open_files() <= before
        assert front.spooled() == []
        digest = hashlib.sha256(rest)
        left = LARGE - len(rest)
        while left:
            part = connection.recv(min(left, 1024 * 1024))
            assert part, f"closed {left} bytes before the end"
            digest.update(part)
            left -= len(part)
    assert digest.hexdigest() == hashlib.sha256(PIECE * (LARGE // len(PIECE))).hexdigest()
    assert front.spooled() == []


def test_large_upload_is_not_spooled(front: Front, endpoint: Endpoint, upstream: Upstream) -> None:
    """The provider reads nothing while the client sends, so the client must not get rid of its body."""
    progress = Progress()
    upstream.on("/large", progress.upload())
    before = front.open_files()
    with front.connected(seconds=60) as connection:
        connection.sendall(get(endpoint, "/large", f"Content-Length: {LARGE}", method="POST"))
        sent, view = 0, memoryview(PIECE)
        connection.setblocking(False)
        # A second in which nothing can be sent: everything on the way is full.
        while sent < LARGE and select.select([], [connection], [], 1.0)[1]:
            try:
                # TLS repeats an unfinished write, so the same piece is offered again.
                sent += connection.send(view[sent % len(PIECE) :])
            except ssl.SSLWantWriteError:
                continue
        assert sent < LARGE
        eventually(lambda: upstream.exchanges, 20)
        assert front.open_files() <= before
        assert front.spooled() == []
        progress.released.set()
        connection.settimeout(60)
        while sent < LARGE:
            sent += connection.send(view[sent % len(PIECE) :])
        _, rest = whole_head(connection)
        expected = hashlib.sha256(PIECE * (LARGE // len(PIECE))).hexdigest().encode()
        assert rest + receive(connection, len(expected) - len(rest)) == expected
    assert front.spooled() == []


def test_events_arrive_one_by_one(front: Front, endpoint: Endpoint, upstream: Upstream) -> None:
    """Each event is sent only after the one before it has arrived."""
    allowed = 0

    async def script(exchange: Exchange) -> None:
        await exchange.write(head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]))
        for number in range(5):
            while allowed < number:  # noqa: ASYNC110  (another thread counts)
                await asyncio.sleep(0.01)
            await exchange.chunk(b"data: event-%d\n\n" % number)
        await exchange.chunk(b"")

    upstream.on("/events", script)
    with front.connected() as connection:
        connection.sendall(get(endpoint, "/events"))
        head_of_response, rest = whole_head(connection)
        assert b"text/event-stream" in head_of_response
        for number in range(5):
            if b"event-%d" % number not in rest:
                rest = receive_until(connection, b"event-%d" % number)
            allowed += 1
        if b"\r\n0\r\n\r\n" not in rest:
            receive_until(connection, b"0\r\n\r\n")


def test_websocket_passes(front: Front, endpoint: Endpoint, upstream: Upstream) -> None:
    """After the handshake, bytes pass unchanged in both directions. Nobody on the way looks at frames."""

    @early
    async def script(exchange: Exchange) -> None:
        key = exchange.header("sec-websocket-key") or b""
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
        upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)]
        await exchange.write(head(101, upgrade))
        while data := await exchange.connection.reader.read(64 * 1024):
            await exchange.write(data)

    upstream.on("/v1/realtime", script)
    handshake = (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    )
    with front.connected() as connection:
        connection.sendall(get(endpoint, "/v1/realtime", *handshake))
        response = read_head(connection)
        assert response.startswith(b"HTTP/1.1 101 "), response
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in response
        for frame in (b"\x81\x82\x00\x00\x00\x00hi", b"\x82\xfe\x40\x00\x00\x00\x00\x00" + os.urandom(0x4000)):
            connection.sendall(frame)
            assert receive(connection, len(frame)) == frame
    eventually(lambda: upstream.last.closed_at, 10)


@pytest.mark.parametrize("size", [16 * 1024, 30 * 1024])
def test_large_response_head_passes(size: int, front: Front, endpoint: Endpoint, upstream: Upstream) -> None:
    headers = [(f"X-Policy-{number}", "v" * 1000) for number in range(size // 1024)]
    upstream.on("/x", fixed(200, headers, b"body"))
    with front.connected() as connection:
        connection.sendall(get(endpoint, "/x"))
        received, rest = whole_head(connection)
        assert received.startswith(b"HTTP/1.1 200 "), received[:200]
        assert received.lower().count(b"x-policy-") == len(headers)
        assert rest + receive(connection, 4 - len(rest)) == b"body"


@pytest.mark.parametrize("reset", [False, True])
def test_client_that_leaves_ends_the_request(reset: bool, front: Front, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/endless", endless(b"data: x\n\n", every=0.02))
    with front.connected() as connection:
        connection.sendall(get(endpoint, "/endless"))
        receive_until(connection, b"data: x")
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    eventually(lambda: upstream.last.closed_at, 10)


def test_client_that_leaves_before_a_response_ends_it(front: Front, endpoint: Endpoint, upstream: Upstream) -> None:
    """The provider thinks for minutes, and nobody waits for it any more."""
    upstream.on("/slow", raw(b"", then="hang"))
    with front.connected() as connection:
        connection.sendall(get(endpoint, "/slow"))
        eventually(lambda: upstream.exchanges, 10)
    eventually(lambda: upstream.last.closed_at, 10)


@pytest.mark.parametrize("line", [b"HTTP/1.1 099 Early", b"HTTP/1.1 000 Nothing", b"HTTP/1.1 999 Late"])
def test_status_that_servers_read_differently_is_a_502(
    line: bytes, front: Front, endpoint: Endpoint, upstream: Upstream
) -> None:
    """nginx takes a status below 100 for HTTP/0.9, and passes head and body on as a body."""
    upstream.on("/x", raw(line + b"\r\nContent-Length: 2\r\nX-Secret: 1\r\n\r\nok"))
    with front.connected() as connection:
        connection.sendall(get(endpoint, "/x", "Connection: close"))
        received, _ = whole_head(connection)
        assert received.startswith(b"HTTP/1.1 502 "), received[:300]
        assert b"x-strake-error: upstream_invalid" in received.lower()
        assert b"x-secret" not in received.lower()


def test_204_with_a_length_does_not_block(front: Front, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", raw(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", then="keep"))
    with front.connected() as connection:
        connection.sendall(get(endpoint, "/x"))
        received, rest = whole_head(connection)
        assert received.startswith(b"HTTP/1.1 204 ")
        assert rest == b""
        upstream.on("/next", fixed(200, body=b"next"))
        connection.sendall(get(endpoint, "/next"))
        received, rest = whole_head(connection)
        assert received.startswith(b"HTTP/1.1 200 ")
        assert rest + receive(connection, 4 - len(rest)) == b"next"


def test_client_address_comes_from_the_front(front: Front, endpoint: Endpoint, upstream: Upstream) -> None:
    """A client cannot choose its address, and the provider learns none."""
    with front.connected() as connection:
        connection.sendall(get(endpoint, "/x", "X-Forwarded-For: 203.0.113.9"))
        whole_head(connection)
    names = {name.lower() for name, _ in upstream.last.headers}
    assert not [name for name in names if name.startswith(b"x-forwarded") or name in {b"via", b"forwarded"}]
