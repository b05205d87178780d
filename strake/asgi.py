"""The application of the proxy half: forwards proxy traffic, and relays everything else to the web half."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")

import django
from django.conf import settings

django.setup()  # the imports below need it

from credentials.vault.heartbeats import Heartbeat
from proxy import audit_checkpoints, probes, vitals, wrap_service
from proxy.application import ProxyApplication
from proxy.http.request import PATH_PREFIX
from proxy.metrics import gauges
from proxy.relay import Relay
from proxy.server.exchange import Exchange
from strake.metrics.publisher import Publisher


class Application:
    """Routes requests, and starts and stops what a proxy process needs.

    uvicorn knows it as an ASGI application, and calls it for its start and its end only: `proxy.server.protocol` passes
    requests to `handle`.
    """

    relay: Relay

    def __init__(self) -> None:
        self.proxy = ProxyApplication()
        self._suffix = f".{settings.STRAKE_PROXY_DOMAIN}".encode() if settings.STRAKE_PROXY_DOMAIN else b""
        self._wrap_socket = str(settings.STRAKE_WRAP_SOCKET)

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Return the coroutine that responds to a request."""
        if exchange.connection.is_internal and exchange.listener[0] == self._wrap_socket:
            return wrap_service.respond(exchange) if exchange.websocket is None else _nothing()
        if exchange.websocket is not None or self._is_for_proxy(exchange):
            return self.proxy.handle(exchange)
        if exchange.path in probes.PATHS:
            return probes.respond(exchange, self.proxy.lookup)
        if exchange.connection.is_internal:
            return _not_found(exchange)  # the web half comes here as a client of endpoints, not for its own pages
        return self.relay.handle(exchange)

    def _is_for_proxy(self, exchange: Exchange) -> bool:
        if not self._suffix:
            return exchange.path[: len(PATH_PREFIX)] == PATH_PREFIX
        for name, value in exchange.headers:
            if name == b"host":
                return value.partition(b":")[0].lower().endswith(self._suffix)
        return False

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
        """Start and stop (https://asgi.readthedocs.io/en/latest/specs/lifespan.html)."""
        await receive()
        self.relay = Relay(settings.STRAKE_WEB_SOCKET)
        await self.proxy.startup()
        heartbeat = Heartbeat("proxy", lambda: vitals.measure(self.proxy))
        await asyncio.to_thread(heartbeat.start)
        publisher = Publisher("proxy", lambda name: gauges.measure(self.proxy, name), gauges.look)
        await asyncio.to_thread(publisher.start)
        audit_checkpoints.start()
        # Everything loaded by now stays loaded, so collections during requests need not traverse it.
        gc.collect()
        gc.freeze()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.relay.close()
        await self.proxy.shutdown()
        await asyncio.to_thread(heartbeat.stop)
        await asyncio.to_thread(publisher.stop)
        await send({"type": "lifespan.shutdown.complete"})


async def _not_found(exchange: Exchange) -> None:
    exchange.respond(HTTPStatus.NOT_FOUND, [(b"cache-control", b"no-store")], b"")


async def _nothing() -> None:
    """Leave a WebSocket handshake without a response. Its connection is closed."""


application = Application()
