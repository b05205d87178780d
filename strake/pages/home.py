"""Pages that belong to no app: front page, health check, security and privacy."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render


def front_page(request: HttpRequest) -> HttpResponse:
    return redirect("credentials:endpoints" if request.user.is_authenticated else "accounts:sign_in")


def healthz(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


def security(request: HttpRequest) -> HttpResponse:
    return render(request, "strake/security.html")


def privacy(request: HttpRequest) -> HttpResponse:
    return render(request, "strake/privacy.html", {"retention_days": settings.STRAKE_RETENTION_DAYS})
