"""The ASGI entry: proxy traffic goes to the proxy's own handler, everything else to Django."""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured

django_application = get_asgi_application()  # sets Django up, which the imports below need

from credentials import api_errors, checks
from credentials.presence import Presence
from proxy.asgi import ProxyApplication
from proxy.request import PATH_PREFIX

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


MOST_PAGE_BYTES = 1024 * 1024


class Application:
    """Sends each connection to the half of Strake it is for."""

    def __init__(self) -> None:
        self.proxy = ProxyApplication()
        self._suffix = f".{settings.STRAKE_PROXY_DOMAIN}".encode() if settings.STRAKE_PROXY_DOMAIN else b""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self._is_for_proxy(scope) or scope["type"] == "websocket":
            await self.proxy(scope, receive, send)
        elif status := _refused_body(scope):
            await _refuse(scope, send, status)
        else:
            # TLS ends in front of here: whether it is https is known from the configuration, never from a header.
            scope["scheme"] = settings.STRAKE_BASE.scheme
            await django_application(scope, receive, send)  # type: ignore[arg-type]

    def _is_for_proxy(self, scope: Message) -> bool:
        if not self._suffix:
            return bool(scope["raw_path"].startswith(PATH_PREFIX))
        for name, value in scope["headers"]:
            if name == b"host":
                host: bytes = value.partition(b":")[0].lower()
                return host.endswith(self._suffix)
        return False

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            checks.ensure_keyring()
        except ImproperlyConfigured as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        presence = Presence()
        await presence.start()
        await self.proxy.startup()
        # What has been loaded by now stays for good: the collector need not walk it again during requests.
        gc.collect()
        gc.freeze()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.proxy.shutdown()
        await presence.stop()
        await send({"type": "lifespan.shutdown.complete"})


def _refused_body(scope: Message) -> int:
    """The status for a body that no page takes, or 0. Django would write it to a file before looking at it."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return HTTPStatus.LENGTH_REQUIRED
        if name == b"content-length" and int(value) > MOST_PAGE_BYTES:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return 0


async def _refuse(scope: Message, send: Send, status: int) -> None:
    if scope["path"].startswith(api_errors.API_PATH):
        kind, text = b"application/json", api_errors.answer(status).content
    else:
        kind, text = b"text/plain", f"{HTTPStatus(status).phrase}.".encode()
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(text)).encode()),
        (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


application = Application()
