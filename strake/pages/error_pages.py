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
        "The URL or the form contains something that this page does not expect. Go back and try again.",
    )


def permission_denied(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _page(
        request,
        403,
        "You may not see this page",
        "The account you are signed in with does not have access to it.",
    )


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _page(
        request,
        403,
        "This form has expired",
        "You signed in or out after you opened it, or your browser blocks cookies. Nothing was changed. "
        "Open the page again and repeat what you did.",
        way_out=(request.path, "Open the page again"),
    )


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _page(
        request,
        404,
        "There is nothing here",
        "The URL may be mistyped, or the page has been deleted.",
    )


def server_error(request: HttpRequest) -> HttpResponse:
    found = request_ids.request_id(request)
    response = _page(
        request,
        500,
        "Something went wrong",
        "This is an error in Strake, not in your request. Try again in a moment. If it persists, tell the operator of "
        f"this installation. The log has the details under {found}.",
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
