"""The HTTP protocol without the rest of Strake: timeouts, disconnects, and errors of the application."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable

import pytest

from proxy.server.exchange import ClientDisconnected, Exchange
from proxy.server.protocol import HTTPProtocol
from tests.support.raw import PATIENCE, ask, connected, exchange, read
from tests.support.serving import Handler
from tests.support.upstream import eventually

Serve = Callable[[Handler], tuple[str, int]]
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def hello(exchange: Exchange) -> None:
    exchange.respond(200, [], b"hello")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("start", [b"", b"GET", REQUEST[:-2], b"\r\n\r\n"])
def test_incomplete_head_times_out(start: bytes, serve: Serve) -> None:
    address = serve(hello)
    began = time.monotonic()
    with connected(address) as connection:
        connection.sendall(start)
        assert read(connection).closed
    assert time.monotonic() - began > 0.4


@pytest.mark.usefixtures("impatient")
def test_trickling_head_times_out(serve: Serve) -> None:
    """The timeout applies to the whole head, not to each read."""
    address = serve(hello)
    with connected(address) as connection:
        with contextlib.suppress(OSError):
            for byte in REQUEST:
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
        response = read(connection)
    assert (response.raw, response.closed) == (b"", True)


@pytest.mark.usefixtures("impatient")
def test_second_head_has_the_same_timeout(serve: Serve) -> None:
    address = serve(hello)
    with connected(address) as connection:
        connection.sendall(REQUEST)
        assert read(connection, silence=0.05).status == 200
        connection.sendall(REQUEST[:10])
        assert read(connection).closed


@pytest.mark.usefixtures("impatient")
def test_keep_alive_outlasts_the_head_timeout(serve: Serve) -> None:
    address = serve(hello)
    with connected(address) as connection:
        for _ in range(2):
            connection.sendall(REQUEST)
            assert read(connection, silence=1.0).status == 200


def test_slow_heads_do_not_block_other_requests(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HTTPProtocol, "head_seconds", 300)  # outlasts the test
    address = serve(hello)
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connected(address)).sendall(b"GET / HTTP/1.1\r\nX: ")
        assert ask(address, REQUEST).status == 200


def test_disconnect_cancels_once_before_the_end(serve: Serve) -> None:
    cancelled: list[tuple[bytes, bool]] = []
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    async def handle(exchange: Exchange) -> None:
        try:
            if exchange.path == b"/wait":
                begun.set()
                await asyncio.get_running_loop().create_future()
            await hello(exchange)
        except asyncio.CancelledError:
            cancelled.append((exchange.path, exchange.client_left))
            await asyncio.to_thread(may_end.wait, 60)
            ended.set()

    address = serve(handle)
    assert ask(address, REQUEST.replace(b"/ ", b"/done ")).status == 200
    with connected(address) as connection:
        connection.sendall(REQUEST.replace(b"/ ", b"/wait "))
        assert begun.wait(60)
    eventually(lambda: cancelled)
    may_end.set()
    assert ended.wait(60)
    assert cancelled == [(b"/wait", True)]


@pytest.mark.parametrize("when", ["before the head", "after the head"])
def test_application_error_is_logged_by_type_only(when: str, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def handle(exchange: Exchange) -> None:
        if when == "after the head":
            exchange.begin_response(200, [])
        raise ValueError("canary-7f3a")

    response = exchange(serve(handle), REQUEST, silence=PATIENCE)
    assert response.closed
    assert response.status == (500 if when == "before the head" else 200)
    assert not response.body.endswith(b"0\r\n\r\n")
    assert b"canary" not in response.raw
    assert "kind=ValueError" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize(
    "pair", [(b"x-b", b"1\r\nx-injected: 2"), (b"x-b", b"1\nx-injected: 2"), (b"x-b: 1\r\nx-injected", b"2")]
)
def test_line_break_in_response_header_is_not_sent(pair: tuple[bytes, bytes], serve: Serve) -> None:
    async def handle(exchange: Exchange) -> None:
        exchange.respond(200, [(b"x-a", b"1"), pair], b"hello")

    assert b"x-injected" not in exchange(serve(handle), REQUEST).raw


@pytest.mark.parametrize("body", [b"hell", b"hello!"])
def test_body_of_wrong_length_breaks_the_response_off(body: bytes, serve: Serve) -> None:
    async def handle(exchange: Exchange) -> None:
        exchange.begin_response(200, [(b"content-length", b"5")])
        exchange.send(body, more=False)

    response = exchange(serve(handle), REQUEST, silence=PATIENCE)
    assert response.closed
    assert len(response.body) < 5


@pytest.mark.usefixtures("impatient")
def test_missing_body_times_out(serve: Serve) -> None:
    async def handle(exchange: Exchange) -> None:
        while exchange.more_body:
            await exchange.read()

    raw = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"
    assert exchange(serve(handle), raw).closed


def test_refused_client_gets_no_second_response(serve: Serve) -> None:
    """The body turns out to be malformed while the application waits for it."""
    raised: list[type[BaseException]] = []

    async def handle(exchange: Exchange) -> None:
        try:
            await exchange.read()
        except BaseException as error:  # noqa: BLE001  (it is the object of the test)
            raised.append(type(error))
        await hello(exchange)

    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = exchange(serve(handle), head, b"0x3\r\nabc\r\n", pause=0.1)
    assert (response.status, response.count) == (400, 1)
    eventually(lambda: raised)
    assert raised == [ClientDisconnected]


# --- What a request that cannot be parsed is told ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer strk_x\r\r\n\r\n", b"ends in a carriage return"),
        (b"GET / HTTP/1.1\r\nAuthorization: Bearer strk_x\r\r\nHost: a\r\n\r\n", b"ends in a carriage return"),
        ("GET /v1/é HTTP/1.1\r\nHost: a\r\n\r\n".encode(), b"the byte 0xC3. Send it as %C3"),
        ("GET /v1/x?q=é HTTP/1.1\r\nHost: a\r\n\r\n".encode(), b"the byte 0xC3. Send it as %C3"),
        (b"GET /v1/a b HTTP/1.1\r\nHost: a\r\n\r\n", b"the byte 0x20. Send it as %20"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n", b"not a well-formed HTTP/1.1 request"),
    ],
)
def test_malformed_request_is_told_why(raw: bytes, message: bytes, serve: Serve) -> None:
    response = exchange(serve(hello), raw)
    assert (response.status, response.all("x-strake-error")) == (400, [b"bad_request"])
    assert message in response.body
    assert response.all("x-should-retry") == [b"false"]


def test_idle_connection_is_closed_in_the_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HTTPProtocol, "keepalive_seconds", 1)
    with connected(serve(hello)) as connection:
        connection.sendall(REQUEST)
        assert read(connection, silence=PATIENCE).closed
