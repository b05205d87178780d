"""Sessions for requests, and what happens when their store does not answer."""

from __future__ import annotations

from functools import cache

from asgiref.sync import sync_to_async
from django.contrib.auth import middleware as auth_middleware
from django.contrib.sessions import middleware as session_middleware
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.functional import SimpleLazyObject

from accounts import sessions
from accounts.errors import StoreUnavailable


class SessionMiddleware(session_middleware.SessionMiddleware):
    """Django's, except that a store which does not answer gives a 503 and leaves every cookie as it is.

    Without this an outage of the store would look like a session that is gone, and its cookie would be deleted.
    """

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, StoreUnavailable | OperationalError):
            return _unavailable(request)
        return None

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        if isinstance(response, _UnavailableResponse):
            return response
        try:
            return super().process_response(request, response)
        except StoreUnavailable:
            return _unavailable(request)


class AuthenticationMiddleware(auth_middleware.AuthenticationMiddleware):
    """Django's, except that a session must also stand in the list of sessions: `accounts.sessions.current_user`."""

    def process_request(self, request: HttpRequest) -> None:
        find = cache(lambda: sessions.current_user(request))
        request.user = SimpleLazyObject(find)  # type: ignore[assignment]
        request.auser = sync_to_async(find)


class _UnavailableResponse(HttpResponse):
    status_code = 503


def _unavailable(request: HttpRequest) -> HttpResponse:
    # A half-made sign-in may have asked for a new CSRF cookie; it did not happen.
    request.META["CSRF_COOKIE_NEEDS_UPDATE"] = False
    # Rendered without the request: the usual context would ask the store who is signed in.
    return _UnavailableResponse(render_to_string("accounts/unavailable.html"), headers={"Retry-After": "10"})
