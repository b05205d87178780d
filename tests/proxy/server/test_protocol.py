"""The HTTP protocol without the rest of Strake: timeouts, disconnects, and errors of the application."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from proxy.server.protocol import HTTPProtocol
from tests.support.raw import PATIENCE, ask, connected, exchange, read
from tests.support.upstream import eventually

Serve = Callable[[Any], tuple[str, int]]
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


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


def test_disconnect_is_reported_once_before_the_end(serve: Serve) -> None:
    reported: list[str] = []
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        scope["extensions"]["strake.response"].on_disconnect(lambda: reported.append(path))
        if path == "/wait":
            begun.set()
            await asyncio.to_thread(may_end.wait, 60)
        await hello(scope, receive, send)
        if path == "/wait":
            ended.set()

    address = serve(application)
    assert exchange(address, REQUEST.replace(b"/ ", b"/done "), silence=0.05).status == 200
    with connected(address) as connection:
        connection.sendall(REQUEST.replace(b"/ ", b"/wait "))
        assert begun.wait(60)
    eventually(lambda: reported)
    may_end.set()
    assert ended.wait(60)
    assert reported == ["/wait"]


@pytest.mark.parametrize("when", ["before the head", "after the head"])
def test_application_error_is_logged_by_type_only(when: str, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if when == "after the head":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("canary-7f3a")

    response = exchange(serve(application), REQUEST, silence=PATIENCE)
    assert response.closed
    assert response.status == (500 if when == "before the head" else 200)
    assert not response.raw.endswith(b"0\r\n\r\n")
    assert b"canary" not in response.raw
    assert "kind=ValueError" in caplog.text
    assert "canary" not in caplog.text


def test_line_break_in_response_header_is_not_sent(serve: Serve) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"x-a", b"1\r\nx-injected: 2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    assert b"x-injected" not in exchange(serve(application), REQUEST).raw


@pytest.mark.parametrize("body", [b"hell", b"hello!"])
def test_body_of_wrong_length_breaks_the_response_off(body: bytes, serve: Serve) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": body})

    response = exchange(serve(application), REQUEST, silence=PATIENCE)
    assert response.closed
    assert len(response.body) < 5


@pytest.mark.usefixtures("impatient")
def test_missing_body_times_out(serve: Serve) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] == "http.request":
            pass

    raw = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"
    assert exchange(serve(application), raw).closed


def test_refused_client_gets_no_second_response(serve: Serve) -> None:
    """The body turns out to be malformed while the application waits for it."""
    types: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        types.append((await receive())["type"])
        await hello(scope, receive, send)

    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = exchange(serve(application), head, b"0x3\r\nabc\r\n", pause=0.1)
    assert (response.status, response.count) == (400, 1)
    eventually(lambda: types)
    assert types == ["http.disconnect"]


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
