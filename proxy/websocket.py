"""WebSocket connections: the handshake is checked and forwarded like any request, then two connections are joined."""

from __future__ import annotations

import asyncio

from proxy import headers
from proxy.errors import UpstreamIdle, UpstreamInvalid, WebSocketUnsupported
from proxy.headers import Headers
from proxy.presented import WEBSOCKET_PROTOCOL_PREFIX
from proxy.request import ProxyRequest
from proxy.tunnel import UpgradeProtocol
from proxy.upstream import Upstream, UpstreamResponse
from proxy.views import Admitted, addressed

HANDSHAKE_SECONDS = 20.0
MAX_REFUSAL_BYTES = 1024 * 1024
# What servers answer to a WebSocket handshake for a path where they speak HTTP only, or nothing at all.
_NO_WEBSOCKET = frozenset({404, 405, 501})


async def forward(request: ProxyRequest, client: UpgradeProtocol, admitted: Admitted, *, upstream: Upstream) -> int:
    """Forward a handshake and, where the provider accepts it, everything after it until the connection ends.

    Returns the status of the provider's answer, which has been passed on. Raises `WebSocketUnsupported` where the
    provider knows no WebSocket (a client like Codex then turns to HTTP at once), else as `proxy.views.forward` does.
    """
    with addressed(request, admitted) as to:
        sent = headers.for_upstream(
            _without_tokens(request.headers), to.netloc, to.key_header[0], token=admitted.token.encode()
        )
        sent[1:1] = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                response = await upstream.send(to.origin, "GET", to.target, sent, to.key_header, b"", upgrade=True)
        except TimeoutError:
            raise UpstreamIdle from None
        passed = headers.for_client(response.headers, to.secret, sandbox=False)
    try:
        if response.status == 101:
            if all((name.lower(), value.lower()) != (b"upgrade", b"websocket") for name, value in response.headers):
                raise UpstreamInvalid
            await client.join(passed, *response.detach())
        elif response.status < 400 or response.status in _NO_WEBSOCKET:
            raise WebSocketUnsupported
        else:
            client.respond(response.status, passed, await _whole(response))
    finally:
        response.close()
    status: int = response.status
    return status


async def _whole(response: UpstreamResponse) -> bytes:
    """The body of a refusal. Raises `UpstreamInvalid` where it is longer than a refusal is."""
    body = b""
    while not response.finished:
        body += await response.read()
        if len(body) > MAX_REFUSAL_BYTES:
            raise UpstreamInvalid
    return body


def _without_tokens(given: Headers) -> Headers:
    """The headers of a handshake without the subprotocols that carry a key, and without a body's length."""
    kept: Headers = []
    for name, value in given:
        if name == b"content-length":
            continue
        if name == b"sec-websocket-protocol":
            protocols = [protocol.strip() for protocol in value.split(b",")]
            value = b", ".join(one for one in protocols if not one.startswith(WEBSOCKET_PROTOCOL_PREFIX))
            if not value:
                continue
        kept.append((name, value))
    return kept
