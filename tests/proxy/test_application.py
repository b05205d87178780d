"""What is recorded about requests that do not end normally."""

from __future__ import annotations

import asyncio
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
from tests.support.exchanges import connect, get


class EndlessStream:
    """A response body that sends one chunk and then stays silent."""

    finished = False

    def __init__(self) -> None:
        self.closed = False
        self._chunks = [b"chunk"]

    def take(self) -> bytes:
        return self._chunks.pop() if self._chunks else b""

    async def wait(self) -> None:
        await asyncio.Event().wait()

    def close(self) -> None:
        self.closed = True


class Call:
    """A call of the application that forwards an endless stream, whose first chunk has been sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream = EndlessStream()
        self.recorded: list[Entry] = []
        monkeypatch.setattr(module, "forward", self._forward)
        application = ProxyApplication()
        shared = {"in_flight": InFlight(), "_domain": "", "request_log": SimpleNamespace(add=self.recorded.append)}
        vars(application).update(shared)
        self.connection, self.transport = connect(application.handle)
        self.connection.data_received(get(b"/p/abcdefghijkl/x"))
        assert self.transport.written.endswith(b"\r\n\r\n5\r\nchunk\r\n")

    async def _forward(self, request: ProxyRequest, _: object) -> Response:
        request.route = cast(Any, SimpleNamespace(endpoint_id=uuid4(), token_id=str(uuid4()), budgets=()))
        return Response(200, [], self.stream)


async def test_stream_cut_by_the_server_keeps_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server cancels requests that outlast its shutdown timeout. Their clients have not disconnected."""
    call = Call(monkeypatch)
    [running] = call.connection.tasks
    running.cancel()
    await asyncio.sleep(0.01)
    assert [entry.status for entry in call.recorded] == [200]
    assert call.stream.closed
    assert call.transport.is_closing()
    assert not call.transport.written.endswith(b"0\r\n\r\n")


async def test_stream_whose_client_disconnects_is_a_499(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call(monkeypatch)
    call.connection.connection_lost(None)
    await asyncio.sleep(0.01)
    assert [entry.status for entry in call.recorded] == [499]
    assert call.stream.closed
    assert not call.connection.tasks
