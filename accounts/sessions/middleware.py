"""Django's session and authentication middleware, changed for store outages and ended sessions."""

from __future__ import annotations

from functools import cache

from asgiref.sync import sync_to_async
from django.contrib.auth import middleware as auth_middleware
from django.contrib.sessions import middleware as session_middleware
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.functional import SimpleLazyObject

from accounts.errors import SessionStoreUnavailable
from accounts.sessions import service as sessions


class SessionMiddleware(session_middleware.SessionMiddleware):
    """Responds with 503 if the session store is unavailable, and changes no cookie then.

    Django would take the missing session for an ended one and delete its cookie.
    """

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, SessionStoreUnavailable | OperationalError):
            return _unavailable(request)
        return None

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        if isinstance(response, _UnavailableResponse):
            return response
        try:
            return super().process_response(request, response)
        except SessionStoreUnavailable:
            return _unavailable(request)


class AuthenticationMiddleware(auth_middleware.AuthenticationMiddleware):
    """Uses `accounts.sessions.service.current_user`, which also requires the session's row."""

    def process_request(self, request: HttpRequest) -> None:
        get_user = cache(lambda: sessions.current_user(request))
        request.user = SimpleLazyObject(get_user)  # type: ignore[assignment]
        request.auser = sync_to_async(get_user)


class _UnavailableResponse(HttpResponse):
    status_code = 503


def _unavailable(request: HttpRequest) -> HttpResponse:
    # An interrupted sign-in may have rotated the CSRF token. Do not send that cookie.
    request.META["CSRF_COOKIE_NEEDS_UPDATE"] = False
    # Render without the request: the context processors would read the session store.
    return _UnavailableResponse(render_to_string("accounts/unavailable.html"), headers={"Retry-After": "10"})
