"""The HTTP protocol of the server by itself: deadlines for heads and readers, and what is logged of failures."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from strake.server import Protocol
from tests.proxy.raw import ask, connected, exchange, read
from tests.upstream import eventually

Address = tuple[str, int]
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Address]]:
    """`serve(application)` runs it behind the protocol in a thread, with half a second for everything."""
    monkeypatch.setattr(Protocol, "head_seconds", 0.5)
    monkeypatch.setattr(Protocol, "idle_seconds", 0.5)
    started: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(application: Any) -> Address:
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            application, http=Protocol, ws="none", lifespan="off", loop="uvloop", log_config=None, timeout_keep_alive=2
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        started.append((server, thread))
        eventually(lambda: server.started)
        address: Address = listening.getsockname()
        return address

    yield start
    for server, thread in started:
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize("start", [b"", b"GET", REQUEST[:-2], b"\r\n\r\n"])
def test_head_that_does_not_end_is_cut_off(start: bytes, serve: Callable[..., Address]) -> None:
    address = serve(hello)
    with connected(address) as connection:
        connection.sendall(start)
        began = time.monotonic()
        assert read(connection, silence=5).closed
    assert 0.3 < time.monotonic() - began < 3


def test_head_that_trickles_is_cut_off(serve: Callable[..., Address]) -> None:
    """A byte now and then wins no time: the deadline is for the whole head."""
    address = serve(hello)
    with connected(address) as connection:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in REQUEST * 10:
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
                if time.monotonic() - began > 4:
                    break
    assert time.monotonic() - began < 3


def test_second_head_on_a_connection_has_the_same_deadline(serve: Callable[..., Address]) -> None:
    address = serve(hello)
    with connected(address) as connection:
        connection.sendall(REQUEST)
        assert read(connection, silence=0.2).status == 200
        connection.sendall(REQUEST[:10])
        began = time.monotonic()
        assert read(connection, silence=5).closed
    assert time.monotonic() - began < 1.5


def test_idle_connection_is_kept_longer_than_a_head_may_take(serve: Callable[..., Address]) -> None:
    address = serve(hello)
    with connected(address) as connection:
        for _ in range(2):
            connection.sendall(REQUEST)
            assert read(connection, silence=1.0).status == 200


def test_many_slow_heads_do_not_keep_others_out(serve: Callable[..., Address], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "head_seconds", 30)  # they stay for longer than the answer is waited for
    address = serve(hello)
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connected(address)).sendall(b"GET / HTTP/1.1\r\nX: ")
        assert ask(address, REQUEST).status == 200


def test_disconnect_is_told_once_and_only_before_the_end(serve: Callable[..., Address]) -> None:
    told: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        scope["extensions"]["strake.on_disconnect"](lambda: told.append(path))
        if path == "/wait":
            await asyncio.sleep(0.5)
        await hello(scope, receive, send)

    address = serve(application)
    assert exchange(address, REQUEST.replace(b"/ ", b"/done "), silence=0.2).status == 200
    with connected(address) as connection:
        connection.sendall(REQUEST.replace(b"/ ", b"/wait "))
        time.sleep(0.1)
    eventually(lambda: told)
    time.sleep(0.6)
    assert told == ["/wait"]


@pytest.mark.parametrize("when", ["before the head", "after the head"])
def test_failure_of_the_application_is_logged_by_kind_only(
    when: str, serve: Callable[..., Address], caplog: pytest.LogCaptureFixture
) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if when == "after the head":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("canary-7f3a")

    answer = exchange(serve(application), REQUEST, silence=2)
    assert answer.closed
    assert answer.status == (500 if when == "before the head" else 200)
    assert not answer.raw.endswith(b"0\r\n\r\n")
    assert b"canary" not in answer.raw
    assert "kind=ValueError" in caplog.text
    assert "canary" not in caplog.text


def test_line_break_in_an_answers_header_is_not_sent(serve: Callable[..., Address]) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"x-a", b"1\r\nx-injected: 2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    assert b"x-injected" not in exchange(serve(application), REQUEST, silence=2).raw


@pytest.mark.parametrize("body", [b"hell", b"hello!"])
def test_body_of_another_length_than_declared_breaks_the_answer(body: bytes, serve: Callable[..., Address]) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": body})

    answer = exchange(serve(application), REQUEST, silence=2)
    assert answer.closed
    assert len(answer.body) < 5


def test_body_that_does_not_come_is_cut_off(serve: Callable[..., Address]) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] == "http.request":
            pass

    began = time.monotonic()
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"
    assert exchange(serve(application), raw, silence=5).closed
    assert time.monotonic() - began < 3
