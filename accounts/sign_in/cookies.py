"""Cookies of the sign-in flow and of messages. Django sets the session and CSRF cookies.

Every cookie of Strake has the path / because a `__Host-` cookie must (RFC 6265bis §4.1.3).
"""

from __future__ import annotations

import secrets

from django.conf import settings
from django.contrib.messages.storage.cookie import CookieStorage
from django.http import HttpRequest, HttpResponse

_BROWSER_ID = settings.STRAKE_COOKIE.format("browser")
_LINK = settings.STRAKE_COOKIE.format("link")
_EMAIL = settings.STRAKE_COOKIE.format("email")
_BROWSER_ID_SECONDS = 24 * 3600
_LINK_SECONDS = 15 * 60


class MessageStorage(CookieStorage):
    """Django's storage under a name of Strake's."""

    cookie_name = settings.STRAKE_COOKIE.format("messages")


def get_browser_id(request: HttpRequest) -> str:
    """The random value that identifies a browser which requested a link, or an empty string."""
    return request.COOKIES.get(_BROWSER_ID, "")


def get_or_create_browser_id(request: HttpRequest) -> str:
    """This browser's id, or a new one. Pass it to `set_browser_id`."""
    return get_browser_id(request) or secrets.token_urlsafe(32)


def set_browser_id(response: HttpResponse, value: str) -> None:
    _set(response, _BROWSER_ID, value, _BROWSER_ID_SECONDS)


def get_link_token(request: HttpRequest) -> str:
    """The token of the link that was opened in this browser, or an empty string."""
    return request.COOKIES.get(_LINK, "")


def set_link_token(response: HttpResponse, token: str) -> None:
    _set(response, _LINK, token, _LINK_SECONDS)


def delete_link_token(response: HttpResponse) -> None:
    response.delete_cookie(_LINK, samesite="Lax")


def get_email(request: HttpRequest) -> str:
    """The email address for which this browser requested a link, or an empty string."""
    return str(request.get_signed_cookie(_EMAIL, default="", salt=_EMAIL, max_age=_LINK_SECONDS))


def set_email(response: HttpResponse, value: str) -> None:
    response.set_signed_cookie(
        _EMAIL,
        value,
        salt=_EMAIL,
        max_age=_LINK_SECONDS,
        secure=settings.HTTPS,
        httponly=True,
        samesite="Lax",
    )


def _set(response: HttpResponse, name: str, value: str, seconds: int) -> None:
    response.set_cookie(name, value, max_age=seconds, secure=settings.HTTPS, httponly=True, samesite="Lax")
