"""A response on its way to the client."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from proxy.http.names import Headers
from proxy.server.exchange import Exchange

# On every response to a client of an endpoint. A browser that shows it runs and loads nothing, nobody frames it, and
# other sites cannot load it.
PROTECTION: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"sandbox; default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


PROTECTION_LINES = b"".join([b"%b: %b\r\n" % pair for pair in PROTECTION])
# With how long Strake took itself (https://www.w3.org/TR/server-timing/), to fill in: a number of microseconds below
# 1000, or of milliseconds. One number, since to format one is among a request's costlier steps. A provider's own
# Server-Timing stays beside it.
LINES_BELOW_A_MILLISECOND = PROTECTION_LINES + b"server-timing: strake;dur=0.%03d\r\n"
LINES_IN_MILLISECONDS = PROTECTION_LINES + b"server-timing: strake;dur=%d\r\n"


class Stream(Protocol):
    """A response body that arrives in pieces."""

    @property
    def finished(self) -> bool:
        """True if the whole body has been taken."""

    def take(self) -> bytes:
        """Return what has arrived, or b"" if nothing has. Raises if the body is cut short."""

    async def wait(self) -> None:
        """Wait until `take` returns something or raises, or `finished` is true."""

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


async def send_response(response: Response, exchange: Exchange, *, more_lines: bytes = b"") -> None:
    """Send a response, each piece of a stream as it arrives. `more_lines` are encoded headers to add.

    Waits while the client takes no more, so a slow client slows the provider down. Always closes the stream. Raises
    what `Stream.take` raises, typically `UpstreamBroken`.
    """
    body = response.body
    if isinstance(body, bytes):
        exchange.begin_response(response.status, response.headers, response.reason, more_lines=more_lines)
        exchange.send(body, more=False)
        return
    try:
        exchange.begin_response(response.status, response.headers, response.reason, more_lines=more_lines)
        while True:
            chunk = body.take()
            finished = body.finished
            if not chunk and not finished:
                exchange.flush()
                await body.wait()
                continue
            if exchange.connection.is_full:
                await exchange.drained()
            exchange.send(chunk, more=not finished)
            if finished:
                return
    finally:
        body.close()
