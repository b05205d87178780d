"""Pages that belong to no app: front page, health check, security, privacy and the choice of a theme."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_safe

from accounts.sign_in.policy import safe_next_path

THEMES = ("light", "dark")


def front_page(request: HttpRequest) -> HttpResponse:
    return redirect("credentials:endpoints" if request.user.is_authenticated else "accounts:sign_in")


def healthz(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


def security(request: HttpRequest) -> HttpResponse:
    return render(request, "strake/security.html")


def privacy(request: HttpRequest) -> HttpResponse:
    return render(request, "strake/privacy.html", {"retention_days": settings.STRAKE_RETENTION_DAYS})


@require_safe
def theme(request: HttpRequest) -> HttpResponse:
    """Keep the choice of a theme in a cookie, and go back. With JavaScript, theme.js does both without a request."""
    choice, came_from = request.GET.get("theme", ""), request.headers.get("Referer", "")
    is_own = url_has_allowed_host_and_scheme(came_from, {request.get_host()}, require_https=settings.HTTPS)
    name = settings.STRAKE_COOKIE.format("theme")
    response = HttpResponse(status=HTTPStatus.SEE_OTHER)
    response.headers["Location"] = (is_own and safe_next_path(_path_of(came_from))) or reverse("front_page")
    if choice in THEMES:
        response.set_cookie(name, choice, max_age=365 * 24 * 3600, samesite="Lax", secure=settings.HTTPS)
    else:
        response.delete_cookie(name, samesite="Lax")
    return response


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
