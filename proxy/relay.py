"""Pass an answer on: each chunk leaves as it arrives, and a slow client slows the upstream down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from proxy.views import Answer


async def relay(answer: Answer, send: Callable[[MutableMapping[str, Any]], Awaitable[None]]) -> None:
    """Send the head and the body. `send` returns only when the connection takes more, which is the back-pressure.

    Raises `UpstreamBroken` where the upstream stops before its end. The upstream is let go of in any case.
    """
    body = answer.body
    if isinstance(body, bytes):
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": body})
        return
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        while True:
            chunk = await body.read()
            finished = body.finished
            await send({"type": "http.response.body", "body": chunk, "more_body": not finished})
            if finished:
                return
    finally:
        body.close()
