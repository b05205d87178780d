"""Django's error pages. They need no database, no session and no cache, since any of those may be what failed."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _page(
        request,
        400,
        "That request made no sense to us",
        "Something in the address or in the form was not what this page expects. Go back and try again.",
    )


def permission_denied(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _page(
        request,
        403,
        "This page is not for you",
        "You are signed in with an address that may not see it.",
    )


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _page(
        request,
        403,
        "This form is too old to be sent",
        "You signed in or out since it was opened, or your browser blocks cookies. Nothing was changed. "
        "Open the page again and repeat what you did.",
        way_out=(request.path, "Open the page again"),
    )


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _page(
        request,
        404,
        "There is nothing here",
        "The address may be mistyped, or what was here has been deleted.",
    )


def server_error(request: HttpRequest) -> HttpResponse:
    return _page(
        request,
        500,
        "Something went wrong on our side",
        "It was not your doing. Try again in a moment; if it stays like this, tell the operator of this Strake, "
        "who finds the details in the log.",
    )


def _page(
    request: HttpRequest, status: int, heading: str, explanation: str, way_out: tuple[str, str] | None = None
) -> HttpResponse:
    context = {
        "status": status,
        "heading": heading,
        "explanation": explanation,
        "way_out": way_out or (reverse("front_page"), "To the start page"),
    }
    return render(request, "strake/error.html", context, status=status)
