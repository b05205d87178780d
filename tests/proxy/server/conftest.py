"""A server with any ASGI application behind Strake's HTTP protocol."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from proxy.server.protocol import HTTPProtocol
from tests.support.upstream import eventually

Address = tuple[str, int]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts of half a second."""
    monkeypatch.setattr(HTTPProtocol, "head_seconds", 0.5)
    monkeypatch.setattr(HTTPProtocol, "idle_seconds", 0.5)


@pytest.fixture
def serve() -> Iterator[Callable[[Any], Address]]:
    """`serve(application)` runs it in a thread."""
    started: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(application: Any) -> Address:
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            application,
            http=HTTPProtocol,
            ws="none",
            lifespan="off",
            loop="uvloop",
            log_config=None,
            timeout_keep_alive=300,
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
        thread.join(60)
