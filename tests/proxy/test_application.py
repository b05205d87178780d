"""What is recorded about requests that do not end normally."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from proxy import application as module
from proxy.access.in_flight import InFlight
from proxy.application import ProxyApplication
from proxy.http.request import ProxyRequest
from proxy.http.response import Response
from proxy.request_log.writer import Entry


class EndlessStream:
    """A response body that sends one chunk and then stays silent."""

    finished = False

    def __init__(self) -> None:
        self.closed = False
        self._chunks = [b"chunk"]

    async def read(self) -> bytes:
        if self._chunks:
            return self._chunks.pop()
        await asyncio.Event().wait()
        raise AssertionError

    def close(self) -> None:
        self.closed = True


class Call:
    """A call of the application that forwards an endless stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream = EndlessStream()
        self.recorded: list[Entry] = []
        self.disconnect: Callable[[], None] = lambda: None
        self._received = asyncio.Event()
        monkeypatch.setattr(module, "forward", self._forward)
        application = ProxyApplication()
        shared = {
            "lookup": None,
            "rate_limits": None,
            "pool": None,
            "in_flight": InFlight(),
            "auth_throttle": None,
            "renewals": None,
        }
        vars(application).update(shared, request_log=SimpleNamespace(add=self.recorded.append))
        scope = {
            "type": "http",
            "method": "GET",
            "raw_path": b"/p/abcdefghijkl/x",
            "query_string": b"",
            "headers": [],
            "extensions": {"strake.response": SimpleNamespace(on_disconnect=self._on_disconnect)},
        }
        self.task = asyncio.create_task(self._run(application, scope))

    def _on_disconnect(self, callback: Callable[[], None]) -> None:
        self.disconnect = callback

    async def first_chunk(self) -> None:
        async with asyncio.timeout(60):
            await self._received.wait()

    async def _run(self, application: ProxyApplication, scope: Any) -> None:
        await application(scope, cast(Any, None), self._send)

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self._received.set()

    async def _forward(self, request: ProxyRequest, **_: object) -> Response:
        request.route = cast(Any, SimpleNamespace(endpoint_id=uuid4(), token_id=str(uuid4())))
        return Response(200, [], self.stream)


async def test_stream_cut_by_the_server_keeps_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server cancels requests that outlast its shutdown timeout. Their clients have not disconnected."""
    call = Call(monkeypatch)
    await call.first_chunk()
    call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.task
    assert [entry.status for entry in call.recorded] == [200]
    assert call.stream.closed


async def test_stream_whose_client_disconnects_is_a_499(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call(monkeypatch)
    await call.first_chunk()
    call.disconnect()
    await call.task
    assert [entry.status for entry in call.recorded] == [499]
    assert call.stream.closed
