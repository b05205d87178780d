"""A server with any handler behind Strake's HTTP protocol."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from proxy.server.protocol import HTTPProtocol
from tests.support.serving import Handler, serving

Address = tuple[str, int]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts of half a second."""
    monkeypatch.setattr(HTTPProtocol, "head_seconds", 0.5)
    monkeypatch.setattr(HTTPProtocol, "idle_seconds", 0.5)


@pytest.fixture
def serve() -> Iterator[Callable[[Handler], Address]]:
    """`serve(handle)` serves requests with `handle` in a thread."""
    with ExitStack() as stack:

        def start(handle: Handler) -> Address:
            listening = socket.create_server(("127.0.0.1", 0))
            stack.enter_context(serving(handle, listening))
            address: Address = listening.getsockname()
            return address

        yield start
