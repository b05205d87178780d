"""Middleware for the headers, the compression and the time zone of pages."""

from __future__ import annotations

from collections.abc import Callable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from csp.middleware import CSPMiddleware, PolicyParts
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from django.utils import timezone


class PageHeaders:
    """Set the headers that Django has no setting for, and keep pages out of caches."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        response.headers.setdefault("Cache-Control", "no-store")
        return response


class ContentSecurityPolicy(CSPMiddleware):
    """django-csp's middleware. On loopback, static files load under every name and port that the browser uses."""

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        parts = super().get_policy_parts(request, response, report_only)
        if settings.STRAKE_LOOPBACK and not report_only:
            try:
                host = request.get_host()
            except DisallowedHost:
                return parts
            source = "'self'" if "[" in host else f"{settings.STRAKE_BASE.scheme}://{host}{settings.STATIC_URL}"
            parts.update = {kind: [source] for kind in ("script-src", "style-src", "img-src", "font-src")}
        return parts


class Compression(GZipMiddleware):
    """Django's gzip middleware, for HTML without `Cache-Control: no-transform`.

    The length of a compressed page can reveal a secret in it if an attacker controls other parts of the page (BREACH).
    Django adds random bytes as mitigation. Pages that show a token are not compressed at all.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        is_page = response.headers.get("Content-Type", "").startswith("text/html")
        if not is_page or "no-transform" in response.headers.get("Cache-Control", ""):
            return response
        return super().process_response(request, response)


class LocalTime:
    """Shows times in the zone of the browser, which a script keeps in a cookie. Without the cookie they are in UTC."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with timezone.override(_zone(request.COOKIES.get(settings.STRAKE_COOKIE.format("timezone"), ""))):
            return self.get_response(request)


def _zone(name: str) -> ZoneInfo | None:
    """The zone of that name, or None, which is UTC, if there is none."""
    if not name or len(name) > 64:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
