"""Django's error pages. They use no database, session or cache, because any of those may have failed."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from accounts import request_ids


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _page(
        request,
        400,
        "Bad request",
        "The URL or the form contains something that this page doesn't expect. Go back and try again.",
    )


def permission_denied(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _page(
        request,
        403,
        "You don't have access to this page",
        "Sign in with an account that has access, or ask the operator of this Strake.",
    )


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _page(
        request,
        403,
        "This page expired",
        "Nothing was saved. You signed in or out after you opened it, or your browser blocks cookies. Open the page "
        "again and repeat what you did. Forms fill in again what you typed in this tab, except for keys.",
        way_out=(request.path, "Open the page again"),
    )


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _page(
        request,
        404,
        "Page not found",
        "Check the URL. The page may have been deleted.",
    )


def server_error(request: HttpRequest) -> HttpResponse:
    found = request_ids.request_id(request)
    response = _page(
        request,
        500,
        "Something went wrong",
        "This is an error in Strake, not in your request. Try again in a moment. If it happens again, give the "
        f"operator of this Strake the code {found}, which is in the log.",
    )
    response["X-Request-Id"] = found
    return response


def _page(
    request: HttpRequest, status: int, heading: str, explanation: str, way_out: tuple[str, str] | None = None
) -> HttpResponse:
    context = {
        "status": status,
        "heading": heading,
        "explanation": explanation,
        "way_out": way_out or (reverse("front_page"), "Go to the home page"),
    }
    return render(request, "strake/error.html", context, status=status)
