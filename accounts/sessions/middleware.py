"""Django's session and authentication middleware, changed for store outages and ended sessions."""

from __future__ import annotations

import logging
from functools import cache

from asgiref.sync import sync_to_async
from django.contrib.auth import middleware as auth_middleware
from django.contrib.sessions import middleware as session_middleware
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.functional import SimpleLazyObject

from accounts.errors import SessionStoreUnavailable
from accounts.outage_log import OutageLog
from accounts.sessions import service as sessions

_outage = OutageLog(logging.getLogger(__name__), "pages_unavailable", "pages_back")


class SessionMiddleware(session_middleware.SessionMiddleware):
    """Responds with 503 if the session store is unavailable, and changes no cookie then.

    Django would take the missing session for an ended one and delete its cookie. An outage is logged as `OutageLog`
    says, instead of a line for each response.
    """

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, SessionStoreUnavailable | OperationalError):
            return _unavailable(request, exception)
        return None

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        if isinstance(response, _UnavailableResponse):
            return response
        try:
            response = super().process_response(request, response)
        except SessionStoreUnavailable as error:
            return _unavailable(request, error)
        if request.session.session_key and request.session.accessed:
            _outage.works()
        return response


class AuthenticationMiddleware(auth_middleware.AuthenticationMiddleware):
    """Uses `accounts.sessions.service.current_user`, which also requires the session's row."""

    def process_request(self, request: HttpRequest) -> None:
        get_user = cache(lambda: sessions.current_user(request))
        request.user = SimpleLazyObject(get_user)  # type: ignore[assignment]
        request.auser = sync_to_async(get_user)


class _UnavailableResponse(HttpResponse):
    status_code = 503
    _has_been_logged = True  # `django.utils.log.log_response` would write a line for each


def _unavailable(request: HttpRequest, error: Exception) -> HttpResponse:
    _outage.failed(error.__context__ or error)
    # An interrupted sign-in may have rotated the CSRF token. Do not send that cookie.
    request.META["CSRF_COOKIE_NEEDS_UPDATE"] = False
    # Render without the request: the context processors would read the session store.
    return _UnavailableResponse(render_to_string("accounts/unavailable.html"), headers={"Retry-After": "10"})
