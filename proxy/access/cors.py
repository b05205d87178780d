"""Requests by web pages of other origins (https://fetch.spec.whatwg.org/#http-cors-protocol).

A token may list the origins of pages that may use it. Strake then answers their preflights, which carry no token, and
lets the pages read the responses. There is no credentials mode: pages send the token themselves, and no cookies.

The responses to a token without origins stay as the provider sent them, and its preflights get no answer.
"""

from __future__ import annotations

import re

from accounts import tokens
from proxy.access import browsers
from proxy.access.auth_throttle import AuthThrottle
from proxy.access.origin_lists import AllowedOrigins
from proxy.errors import METHODS, BrowserRefused, InvalidToken, StoreUnavailable
from proxy.http.names import Headers
from proxy.http.request import ProxyRequest
from proxy.http.response import Response

# How long a browser may keep an answer. The request behind it is checked in any case, so this revokes nothing late.
PREFLIGHT_SECONDS = 7200
MAX_NAMES_BYTES = 4096
_ASKED_METHOD = b"access-control-request-method"
_ASKED_HEADERS = b"access-control-request-headers"
_ASKED_PRIVATE_NETWORK = b"access-control-request-private-network"
_PREFLIGHT = frozenset({b"origin", _ASKED_METHOD, _ASKED_HEADERS, _ASKED_PRIVATE_NETWORK})
_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
_ALLOWED_METHODS = b", ".join(method.encode() for method in sorted(METHODS))


async def answer_preflight(
    request: ProxyRequest, *, origins: AllowedOrigins, auth_throttle: AuthThrottle
) -> Response | None:
    """Return the response to a preflight by a page that a token of the endpoint allows.

    Returns None for any other request, which is then handled as usual. Preflights that get no answer count as invalid
    tokens, since each costs a look-up. Raises `BrowserRefused`, `TooManyRefusals`, `TooManyWrongTokens`,
    `StoreUnavailable`.
    """
    asked = {name: value for name, value in request.headers if name in _PREFLIGHT}
    if not request.subdomain or b"origin" not in asked or _ASKED_METHOD not in asked or request.has_unread_body:
        return None
    browsers.check(request)
    has_token = b"key=" in request.query  # then this is a request with a token, and is checked as one
    if not has_token:
        request.digest = tokens.digest(f"preflight {request.origin.decode('latin-1')}")
        auth_throttle.check(request)
    if await origins.contain(request.subdomain, request.origin):
        return Response(204, _preflight_headers(asked), b"")
    if not has_token:
        auth_throttle.refused(request, InvalidToken())
        request.digest = b""
    return None


def _preflight_headers(asked: dict[bytes, bytes]) -> Headers:
    headers: Headers = [
        (b"access-control-allow-origin", asked[b"origin"]),
        (b"access-control-allow-methods", _ALLOWED_METHODS),
        (b"access-control-max-age", str(PREFLIGHT_SECONDS).encode()),
        (b"vary", b"Origin"),
        (b"cache-control", b"no-store"),
    ]
    names = asked.get(_ASKED_HEADERS, b"").strip()
    if len(names) <= MAX_NAMES_BYTES and _NAMES.fullmatch(names):
        headers.append((b"access-control-allow-headers", names))
    # A page on the internet asks this before it calls a Strake in the private network. The owner has named the page.
    # https://wicg.github.io/private-network-access/
    if asked.get(_ASKED_PRIVATE_NETWORK) == b"true":
        headers.append((b"access-control-allow-private-network", b"true"))
    return headers


async def may_read(request: ProxyRequest, *, origins: AllowedOrigins) -> bool:
    """Return whether the page that sent a request may read its response.

    It may if its token lists the page's origin. An error of Strake's own it may read if any token of the endpoint does:
    the token of the request may be mistyped, or not even looked up.
    """
    if request.is_allowed_origin:
        return True
    if not request.error or request.error == BrowserRefused.code or not request.subdomain:
        return False
    try:
        return await origins.contain(request.subdomain, request.origin)
    except StoreUnavailable:
        return False


def share(headers: Headers, origin: bytes) -> None:
    """Let pages of `origin` read a response, every header of it included. The provider's own rules are replaced."""
    headers[:] = [pair for pair in headers if not pair[0].lower().startswith(b"access-control-")]
    headers += [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", b"*"),
        (b"vary", b"Origin"),
    ]
