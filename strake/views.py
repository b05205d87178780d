"""Pages that belong to no app: front page, health, promises, privacy, and Django's error pages."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render


def front_page(request: HttpRequest) -> HttpResponse:
    return redirect("credentials:endpoints" if request.user.is_authenticated else "accounts:sign_in")


def healthz(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


def security(request: HttpRequest) -> HttpResponse:
    return render(request, "strake/security.html")


def privacy(request: HttpRequest) -> HttpResponse:
    return render(request, "strake/privacy.html")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return render(request, "strake/error.html", {"status": 400}, status=400)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return render(request, "strake/error.html", {"status": 403}, status=403)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return render(request, "strake/error.html", {"status": 404}, status=404)


def server_error(request: HttpRequest) -> HttpResponse:
    return render(request, "strake/error.html", {"status": 500}, status=500)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return render(request, "strake/error.html", {"status": 403, "expired_form": True}, status=403)
