"""The cookies of signing in. The session and CSRF cookies are Django's."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from accounts import browsers

# A `__Host-` cookie belongs to the whole host by definition; the ones for /signin/ alone can only be `__Secure-`.
_NONCE = "__Host-strake-browser" if settings.HTTPS else "strake-browser"
_LINK = "__Secure-strake-link" if settings.HTTPS else "strake-link"
_EMAIL = "__Secure-strake-email" if settings.HTTPS else "strake-email"
_SIGN_IN_PATH = "/signin/"
_NONCE_SECONDS = 24 * 3600
_LINK_SECONDS = 15 * 60


def nonce(request: HttpRequest) -> str:
    """What marks this browser as the one that asked for a link; empty where it has not."""
    return request.COOKIES.get(_NONCE, "")


def keep_nonce(response: HttpResponse, value: str) -> None:
    _set(response, _NONCE, value, _NONCE_SECONDS, "/")


def link_token(request: HttpRequest) -> str:
    """The token of the link that was just opened in this browser."""
    return request.COOKIES.get(_LINK, "")


def keep_link_token(response: HttpResponse, token: str) -> None:
    _set(response, _LINK, token, _LINK_SECONDS, _SIGN_IN_PATH)


def drop_link_token(response: HttpResponse) -> None:
    response.delete_cookie(_LINK, path=_SIGN_IN_PATH, samesite="Lax")


def email(request: HttpRequest) -> str:
    """The address a link was just asked for in this browser, as it was typed."""
    value = request.get_signed_cookie(_EMAIL, default="", salt=_EMAIL, max_age=_LINK_SECONDS)
    return str(value)


def keep_email(response: HttpResponse, value: str) -> None:
    response.set_signed_cookie(
        _EMAIL,
        value,
        salt=_EMAIL,
        max_age=_LINK_SECONDS,
        path=_SIGN_IN_PATH,
        secure=settings.HTTPS,
        httponly=True,
        samesite="Lax",
    )


def new_nonce(request: HttpRequest) -> str:
    """This browser's mark, or a new one. Pass it to `keep_nonce` as well."""
    return nonce(request) or browsers.new_nonce()


def _set(response: HttpResponse, name: str, value: str, seconds: int, path: str) -> None:
    response.set_cookie(name, value, max_age=seconds, path=path, secure=settings.HTTPS, httponly=True, samesite="Lax")
