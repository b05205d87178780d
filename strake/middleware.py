"""Headers of every page."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware


class PageHeaders:
    """Headers Django has no setting for; pages of a signed-in person are not stored by any cache."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        response.headers.setdefault("Cache-Control", "no-store")
        return response


class Compression(GZipMiddleware):
    """Django's, for pages only; those which say `no-transform` stay as they are: they show a token, as the API does.

    Compressed together with something an attacker can choose, the length of a page tells about the secrets in it.
    Django adds random bytes against that; where a token is shown, nothing is better.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        is_page = response.headers.get("Content-Type", "").startswith("text/html")
        if not is_page or "no-transform" in response.headers.get("Cache-Control", ""):
            return response
        return super().process_response(request, response)
