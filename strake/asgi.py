"""The ASGI application of the proxy half: forwards proxy traffic, and relays everything else to the web half."""

from __future__ import annotations

import asyncio
import gc
import os
from http import HTTPStatus

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")

import django
from django.conf import settings

django.setup()  # the imports below need it

from credentials.vault.heartbeats import Heartbeat
from proxy import probes, vitals, wrap_service
from proxy.application import ProxyApplication
from proxy.http.request import PATH_PREFIX
from proxy.relay import Relay
from proxy.server.asgi import Receive, Scope, Send


class Application:
    """Routes requests, and starts and stops what a proxy process needs."""

    relay: Relay

    def __init__(self) -> None:
        self.proxy = ProxyApplication()
        self._suffix = f".{settings.STRAKE_PROXY_DOMAIN}".encode() if settings.STRAKE_PROXY_DOMAIN else b""
        self._wrap_socket = str(settings.STRAKE_WRAP_SOCKET)
        self._proxy_socket = str(settings.STRAKE_PROXY_SOCKET)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        listener = scope["server"][0]
        if listener == self._wrap_socket:
            await wrap_service.respond(scope, receive, send)
        elif self._is_for_proxy(scope) or scope["type"] == "websocket":
            await self.proxy(scope, receive, send)
        elif scope["path"] in probes.PATHS:
            await probes.respond(scope, send, self.proxy.lookup)
        elif listener == self._proxy_socket:
            await _not_found(send)  # the web half comes here as a client of endpoints, not for its own pages
        else:
            await self.relay(scope, receive, send)

    def _is_for_proxy(self, scope: Scope) -> bool:
        if not self._suffix:
            return bool(scope["raw_path"].startswith(PATH_PREFIX))
        for name, value in scope["headers"]:
            if name == b"host":
                host: bytes = value.partition(b":")[0].lower()
                return host.endswith(self._suffix)
        return False

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self.relay = Relay(settings.STRAKE_WEB_SOCKET)
        await self.proxy.startup()
        heartbeat = Heartbeat("proxy", lambda: vitals.measure(self.proxy))
        await asyncio.to_thread(heartbeat.start)
        # Everything loaded by now stays loaded, so collections during requests need not traverse it.
        gc.collect()
        gc.freeze()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.relay.close()
        await self.proxy.shutdown()
        await asyncio.to_thread(heartbeat.stop)
        await send({"type": "lifespan.shutdown.complete"})


async def _not_found(send: Send) -> None:
    headers = [(b"content-length", b"0"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": HTTPStatus.NOT_FOUND.value, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


application = Application()
