"""Refuses requests by which a provider's response could act in a browser, above all on the dashboard's origin.

Browsers say what a response is for (https://www.w3.org/TR/fetch-metadata/), on https and on loopback. `fetch` by pages
of other sites passes, which is what API clients in browsers use.

Browsers older than 2023 may not say it. They do name navigations and workers. Everything else that they could load is
stopped by the headers of `proxy.http.response.PROTECTION` and by the policy of Strake's pages, which load scripts,
styles, images and fonts from /static/ only.
"""

from __future__ import annotations

from django.conf import settings

from proxy.errors import BrowserRefused
from proxy.http.names import FROM_BROWSERS
from proxy.http.request import ProxyRequest

# Sent by nothing but browsers, with navigations and with scripts of service workers.
_REFUSED = frozenset({b"service-worker", b"upgrade-insecure-requests"})
# By `fetch` and its relatives, in the modes whose responses a page may read. The first versions of browsers with these
# headers did not send the destination, and older versions of Firefox have a separate word for WebSocket.
_FETCH_DESTINATIONS = frozenset({b"empty", b"websocket"})
_FETCH_MODES = frozenset({b"cors", b"websocket"})


def check(request: ProxyRequest) -> None:
    """Set `is_browser` and `origin`.

    Raises `BrowserRefused` unless the request is a `fetch` by another site, or by no browser.
    """
    found = {name: value for name, value in request.headers if name in FROM_BROWSERS}
    request.origin = found.get(b"origin", b"")
    # Not Sec-Fetch-Mode: the fetch of Node.js sends it, and nothing else of these.
    request.is_browser = b"sec-fetch-site" in found or b"sec-fetch-dest" in found
    if not _REFUSED.isdisjoint(found):
        raise BrowserRefused
    if not request.is_browser:
        return
    is_fetch = (
        found.get(b"sec-fetch-dest", b"empty") in _FETCH_DESTINATIONS and found.get(b"sec-fetch-mode") in _FETCH_MODES
    )
    by_dashboard = found.get(b"sec-fetch-site") == b"same-origin" or found.get(b"origin") == _dashboard()
    if not is_fetch or by_dashboard:
        raise BrowserRefused


def _dashboard() -> bytes:
    origin: str = settings.STRAKE_BASE_URL
    return origin.encode()
