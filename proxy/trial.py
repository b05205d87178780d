"""One call through an endpoint from the server's side, for the button "Test it"."""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from credentials.models import Endpoint
from credentials.providers import Provider
from proxy.asgi import ProxyApplication

Message = MutableMapping[str, Any]
SECONDS = 20


@dataclass(frozen=True, slots=True)
class Result:
    """How a call went. `error` is the code of our own error, if it was ours; `status` 0 means no answer in time."""

    status: int
    latency_ms: int
    error: str = ""

    @property
    def works(self) -> bool:
        return 200 <= self.status < 300


async def call(*, endpoint: Endpoint, provider: Provider, token: str, peer: str, forwarded_for: str = "") -> Result:
    """GET what the key check asks for, through the proxy's own handler, as a tool at `peer` would.

    The answer's body is counted and thrown away.
    """
    check = provider.key_check
    scope = _scope(endpoint, check.path if check else "/")
    scope["client"] = (peer, 0)
    scope["headers"] = [
        (b"host", _host(endpoint)),
        (b"authorization", b"Bearer " + token.encode("ascii", "replace")),
        *((name.encode(), value.encode()) for name, value in (check.headers if check else ())),
    ]
    if forwarded_for:
        scope["headers"].append((b"x-forwarded-for", forwarded_for.encode("latin-1", "replace")))
    answer = _Answer()
    application = ProxyApplication()
    await application.startup()
    try:
        await asyncio.wait_for(application(scope, answer.receive, answer.send), SECONDS)
    except TimeoutError:
        return Result(0, SECONDS * 1000)
    finally:
        await application.shutdown()
    return Result(answer.status, answer.latency_ms, answer.error)


class _Answer:
    """Both channels of an ASGI call: an empty request, and the head of the answer."""

    def __init__(self) -> None:
        self.status = 0
        self.error = ""
        self.latency_ms = 0
        self._started = time.perf_counter()
        self._asked = False

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()  # this client does not leave
        raise AssertionError

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.latency_ms = int((time.perf_counter() - self._started) * 1000)
            self.error = dict(message["headers"]).get(b"x-strake-error", b"").decode()


def _scope(endpoint: Endpoint, target: str) -> Message:
    path, _, query = target.partition("?")
    prefix = "" if settings.STRAKE_PROXY_DOMAIN else f"/p/{endpoint.subdomain}"
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": settings.STRAKE_BASE.scheme,
        "path": prefix + path,
        "raw_path": (prefix + path).encode(),
        "query_string": query.encode(),
        "root_path": "",
    }


def _host(endpoint: Endpoint) -> bytes:
    if settings.STRAKE_PROXY_DOMAIN:
        return f"{endpoint.subdomain}.{settings.STRAKE_PROXY_DOMAIN}".encode()
    return str(settings.STRAKE_BASE.netloc).encode()
