"""Pages that belong to no app: front page, health check, security and privacy."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse


def front_page(request: HttpRequest) -> HttpResponse:
    return redirect("credentials:endpoints" if request.user.is_authenticated else "accounts:sign_in")


def healthz(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


def security(request: HttpRequest) -> HttpResponse:
    return render(request, "strake/security.html")


def privacy(request: HttpRequest) -> HttpResponse:
    return render(request, "strake/privacy.html", {"retention_days": settings.STRAKE_RETENTION_DAYS})


def admin_sign_in(request: HttpRequest) -> HttpResponse:
    """Replaces the sign-in form of Django's admin, which asks for a password."""
    if request.user.is_authenticated:
        raise PermissionDenied  # signed in, but not an operator
    return redirect_to_login(reverse("admin:index"))
