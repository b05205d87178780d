"""The obvious proxy, for comparison: an async Django view around `httpx.AsyncClient`."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator

import django
import httpx
import uvicorn
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, StreamingHttpResponse
from django.urls import re_path

TARGET = os.environ.get("BENCH_UPSTREAM", "http://127.0.0.1:9101")
_client: httpx.AsyncClient | None = None


async def forward(request: HttpRequest) -> StreamingHttpResponse:
    global _client
    if _client is None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        _client = httpx.AsyncClient(timeout=600, limits=limits, trust_env=False)
    headers = {"content-type": request.headers.get("content-type", ""), "authorization": "Bearer sk-real"}
    upstream = _client.build_request(
        request.method or "GET", TARGET + request.path, headers=headers, content=request.body
    )
    response = await _client.send(upstream, stream=True)

    async def body() -> AsyncIterator[bytes]:
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        finally:
            await response.aclose()

    return StreamingHttpResponse(body(), status=response.status_code, content_type=response.headers["content-type"])


if __name__ == "__main__":
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="bench", MIDDLEWARE=[])
    django.setup()
    urlpatterns = [re_path("^", forward)]
    uvicorn.run(
        get_asgi_application(),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="error",
    )
