"""WebSocket connections: handshakes are authorized and forwarded like any request, then two connections are joined."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from proxy.access.bearer_auth import WEBSOCKET_PROTOCOL_PREFIX
from proxy.errors import UpstreamIdle, UpstreamInvalid, WebSocketUnsupported
from proxy.http import headers
from proxy.http.names import NAMES, SUBPROTOCOL
from proxy.http.request import ProxyRequest
from proxy.http.response import PROTECTION
from proxy.server.interfaces import WebSocket
from proxy.upstream.pool import UpstreamResponse
from proxy.views import Shared, access_token, authorize, give_up, map_urls, resolve_target

HANDSHAKE_SECONDS = 20.0
MAX_REFUSAL_BYTES = 1024 * 1024
# Statuses of servers that know only HTTP at this path, or do not know the path.
_NO_WEBSOCKET = frozenset({404, 405, 501})


async def forward(request: ProxyRequest, client: WebSocket, shared: Shared, *, opened: Callable[[], None]) -> int:
    """Forward a handshake and, if the provider accepts it, everything that follows until the connection ends.

    Calls `opened` when the provider has accepted the handshake.
    Returns the status that the provider responded with and the client has received. Raises `WebSocketUnsupported` if
    the provider does not speak WebSocket (clients like Codex then switch to HTTP at once), `UpstreamIdle` after
    `HANDSHAKE_SECONDS`, and otherwise what `proxy.views.forward` raises.
    """
    route, ring = await authorize(request, shared)
    derived = await access_token(request, route, ring, shared.renewals) if route.buys_token else None
    with resolve_target(request, route, ring, derived) as upstream:
        _remove_tokens(request)
        request_headers = upstream.headers_of(request)
        request_headers[1:1] = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                response = await upstream.send(shared.pool, "GET", request_headers, b"", upgrade=True)
        except TimeoutError:
            raise UpstreamIdle from None
        response_headers = headers.for_client(response.headers, response.kinds, upstream.secret, to_browser=False)
    if derived is not None and response.status == HTTPStatus.UNAUTHORIZED:
        await give_up(derived, route, ring, response, shared.renewals)
    response_headers = await map_urls(response_headers, request, route, response)
    try:
        if response.status == 101:
            if all((name.lower(), value.lower()) != (b"upgrade", b"websocket") for name, value in response.headers):
                raise UpstreamInvalid
            opened()
            await client.join(response_headers + PROTECTION, *response.detach())
        elif response.status < 400 or response.status in _NO_WEBSOCKET:
            raise WebSocketUnsupported
        else:
            client.respond(response.status, response_headers + PROTECTION, await _read_refusal(response))
    finally:
        response.close()
    return response.status


async def _read_refusal(response: UpstreamResponse) -> bytes:
    """Read the body of a refusal. Raises `UpstreamInvalid` above `MAX_REFUSAL_BYTES`."""
    body = b""
    while not response.finished:
        body += await response.read()
        if len(body) > MAX_REFUSAL_BYTES:
            raise UpstreamInvalid
    return body


def _remove_tokens(request: ProxyRequest) -> None:
    """Remove a handshake's Content-Length, and the subprotocols that carry a token."""
    request.passing = [
        (name, _without_tokens(value) if NAMES[name].kinds & SUBPROTOCOL else value) for name, value in request.passing
    ]
    request.drop_headers(lambda header: header[0] == b"content-length" or header == (b"sec-websocket-protocol", b""))


def _without_tokens(value: bytes) -> bytes:
    protocols = [protocol.strip() for protocol in value.split(b",")]
    return b", ".join(protocol for protocol in protocols if not protocol.startswith(WEBSOCKET_PROTOCOL_PREFIX))
