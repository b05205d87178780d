"""Forward one request again and again between fake transports, for `bench.instructions`."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, cast

import django

django.setup()

import uvicorn  # noqa: E402
import uvloop  # noqa: E402
from uvicorn.server import ServerState  # noqa: E402

from bench.upstream import RESPONSE  # noqa: E402
from proxy.metrics import traffic  # noqa: E402
from proxy.request_log import recorder  # noqa: E402
from proxy.server.protocol import HTTPProtocol  # noqa: E402
from proxy.upstream import pool  # noqa: E402
from proxy.upstream.connection import UpstreamConnection  # noqa: E402
from strake.asgi import Application  # noqa: E402

BODY = b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hello there. How are you today? Answer briefly."}]}'
# As `bench` sends it, and as OpenAI's SDK for Python does.
REQUESTS = {
    "bench": b"""\
POST /p/%b/v1/chat/completions HTTP/1.1
Host: 127.0.0.1:8000
Authorization: Bearer %b
Content-Type: application/json
Content-Length: %d

""",
    "openai": b"""\
POST /p/%b/v1/chat/completions HTTP/1.1
Host: 127.0.0.1:8000
Accept-Encoding: gzip, deflate
Connection: keep-alive
Accept: application/json
Content-Type: application/json
User-Agent: OpenAI/Python 2.8.1
X-Stainless-Lang: python
X-Stainless-Package-Version: 2.8.1
X-Stainless-OS: Linux
X-Stainless-Arch: x64
X-Stainless-Runtime: CPython
X-Stainless-Runtime-Version: 3.11.7
Authorization: Bearer %b
X-Stainless-Async: false
x-stainless-retry-count: 0
x-stainless-read-timeout: 600
Content-Length: %d

""",
}


class FakeSocket:
    """An open socket that has nothing to read."""

    def __init__(self) -> None:
        self._fd, self._other = os.pipe()

    def fileno(self) -> int:
        return self._fd

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 8000)

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 50000)


class FakeTransport(asyncio.Transport):
    """Passes what is written to `on_write`."""

    def __init__(self, on_write: Any) -> None:
        super().__init__()
        self._on_write = on_write
        self._socket = FakeSocket()

    def write(self, data: Any) -> None:
        self._on_write(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"socket": self._socket}.get(name, default)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Exchange:
    """A client, a provider, and a Strake between them."""

    def __init__(self, application: Application, kind: str, subdomain: str, token: str) -> None:
        self.application = application
        self.loop = asyncio.get_running_loop()
        self.received: list[bytes] = []
        config = uvicorn.Config(
            cast(Any, application), http=HTTPProtocol, ws="none", lifespan="off", proxy_headers=False, log_config=None
        )
        config.load()
        self.client = HTTPProtocol(config, ServerState(), app_state={}, _loop=self.loop)
        self.client.connection_made(FakeTransport(self.received.append))
        self.request = (REQUESTS[kind].replace(b"\n", b"\r\n") % (subdomain.encode(), token.encode(), len(BODY))) + BODY

    async def open_upstream(self, *_: Any) -> UpstreamConnection:
        self.upstream = UpstreamConnection(self.loop)
        self.upstream.connection_made(FakeTransport(_discard))
        return self.upstream

    def once(self) -> None:
        """Pass the request to the client's connection, and the response to the provider's, as the event loop would."""
        self.received.clear()
        self.client.data_received(self.request)
        self.upstream.data_received(RESPONSE)

    async def first(self) -> None:
        """The first request connects, in a task."""
        self.client.data_received(self.request)
        await asyncio.sleep(0.1)
        self.upstream.data_received(RESPONSE)


def _discard(data: bytes) -> None:
    """Send nothing."""


async def main(kind: str, subdomain: str, warm_up: int, requests: int) -> None:
    token = sys.stdin.readline().strip()
    recorder.FLUSH_SECONDS = 3600  # once at the end, and not when a clock says so
    pool.KEEPALIVE_SECONDS = 3600  # a busy machine may take a while
    application = Application()
    await application.proxy.startup()
    exchange = Exchange(application, kind, subdomain, token)
    cast(Any, application.proxy.pool)._open = exchange.open_upstream  # noqa: SLF001
    await exchange.first()
    for _ in range(warm_up):
        exchange.once()
    if not exchange.received[0].startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(exchange.received)
    log = application.proxy.request_log
    await log._flush()  # noqa: SLF001
    traffic.publish()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for _ in range(requests):
        exchange.once()
    if not os.environ.get("BENCH_WITHOUT_LOG"):
        await log._flush()  # noqa: SLF001
    traffic.publish()
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
