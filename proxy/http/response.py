"""A response on its way to the client."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from proxy.server.asgi import Headers, Send

# On every response to a client of an endpoint. A browser that shows it runs and loads nothing, nobody frames it, and
# other sites cannot load it.
PROTECTION: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"sandbox; default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Stream(Protocol):
    """A response body that arrives in pieces."""

    @property
    def finished(self) -> bool:
        """True if the whole body has been read."""

    async def read(self) -> bytes:
        """Return what has arrived, or wait for more. Returns b"" at the end. Raises if the body is cut short."""

    def close(self) -> None:
        """Release the connection that the body arrives on."""


class Response(NamedTuple):
    """Status, headers and body. The body of a provider's response is a `Stream`.

    Without a `reason`, the phrase is the usual one of the status.
    """

    status: int
    headers: Headers
    body: bytes | Stream
    reason: bytes | None = None


async def send_response(response: Response, send: Send) -> None:
    """Send a response, each piece of a stream as it arrives.

    `send` returns only when the client takes more, so a slow client slows the provider down. Always closes the stream.
    Raises what `Stream.read` raises, typically `UpstreamBroken`.
    """
    body = response.body
    start = {
        "type": "http.response.start",
        "status": response.status,
        "headers": response.headers,
        "strake.reason": response.reason,
    }
    if isinstance(body, bytes):
        await send(start)
        await send({"type": "http.response.body", "body": body})
        return
    try:
        await send(start)
        while True:
            chunk = await body.read()
            finished = body.finished
            await send({"type": "http.response.body", "body": chunk, "more_body": not finished})
            if finished:
                return
    finally:
        body.close()
