"""Any ASGI application behind Strake's HTTP protocol, in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from proxy.application import ProxyApplication
from proxy.server.protocol import HTTPProtocol
from tests.support.upstream import eventually


@contextlib.contextmanager
def serving(application: Any, listening: socket.socket, *, lifespan: bool = False) -> Iterator[None]:
    """Serve `application` on a bound socket, as strake/processes/worker.py does."""
    config = uvicorn.Config(
        application,
        http=HTTPProtocol,
        ws="none",
        lifespan="on" if lifespan else "off",
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

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await run_lifespan(receive, send, startup=proxy.startup, shutdown=proxy.shutdown)
        else:
            scope["extensions"]["strake.internal"] = True
            await proxy(scope, receive, send)

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    with serving(application, listening, lifespan=True):
        yield proxy


async def run_lifespan(
    receive: Any, send: Any, *, startup: Callable[[], Awaitable[None]], shutdown: Callable[[], Awaitable[None]]
) -> None:
    for step, function in (("startup", startup), ("shutdown", shutdown)):
        await receive()
        await function()
        await send({"type": f"lifespan.{step}.complete"})
