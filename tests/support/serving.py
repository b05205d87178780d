"""Any handler of requests behind Strake's HTTP protocol, in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from proxy.application import ProxyApplication
from proxy.server.exchange import Exchange
from proxy.server.protocol import HTTPProtocol
from tests.support.upstream import eventually

Handler = Callable[[Exchange], Coroutine[Any, Any, None]]
Step = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """Start or stop nothing."""


class Application:
    """One handler, and what uvicorn calls for its start and its end, as strake/asgi.py."""

    def __init__(self, handle: Handler, startup: Step, shutdown: Step) -> None:
        self.handle = handle
        self._steps = {"startup": startup, "shutdown": shutdown}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for step, function in self._steps.items():
            await receive()
            await function()
            await send({"type": f"lifespan.{step}.complete"})


@contextlib.contextmanager
def serving(
    handle: Handler, listening: socket.socket, *, startup: Step = nothing, shutdown: Step = nothing
) -> Iterator[None]:
    """Serve requests with `handle` on a bound socket, as strake/processes/worker.py does."""
    config = uvicorn.Config(
        Application(handle, startup, shutdown),
        http=HTTPProtocol,
        ws="none",
        lifespan="on",
        loop="uvloop",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        log_config=None,
        log_level="warning",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()


@contextlib.contextmanager
def serving_proxy(path: Path) -> Iterator[ProxyApplication]:
    """Serve proxy traffic from the web process on a Unix socket. It sees committed rows only."""
    proxy = ProxyApplication()

    def handle(exchange: Exchange) -> Coroutine[Any, Any, None]:
        exchange.connection.is_internal = True
        return proxy.handle(exchange)

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    with serving(handle, listening, startup=proxy.startup, shutdown=proxy.shutdown):
        yield proxy
