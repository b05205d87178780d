"""Decorators for views."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, overload
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from accounts.models import User
from accounts.sessions import service as sessions
from accounts.shortcuts import see_other

View = Callable[..., HttpResponse]


def staff_required(view: View) -> View:
    """Require a member of staff. Other people get the response 403, and visitors are sent to sign in."""

    @login_required
    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not (isinstance(request.user, User) and request.user.is_staff):
            raise PermissionDenied
        return view(request, *args, **kwargs)

    return wrapped


@overload
def recent_sign_in_required(view: View) -> View: ...
@overload
def recent_sign_in_required(*, return_to: Callable[..., str] | None = None) -> Callable[[View], View]: ...
def recent_sign_in_required(
    view: View | None = None, *, return_to: Callable[..., str] | None = None
) -> View | Callable[[View], View]:
    """Require a recent sign-in (`sessions.is_recent`). Redirects to `accounts:sign_in_again` if there was none.

    After signing in, people return to the requested page. A view that accepts only POST has no page, so it passes
    `return_to`, which gets the view's keyword arguments and returns the path to return to. The body of a refused POST
    is discarded, because it may contain a key.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if request.user.is_authenticated and sessions.is_recent(request):
                return view(request, *args, **kwargs)
            if not request.user.is_authenticated and request.method != "POST":
                return redirect_to_login(request.get_full_path())
            query = {"next": return_to(**kwargs) if return_to else request.get_full_path()}
            if request.method == "POST":
                query["unsaved"] = "1"  # the page says so
            page = "accounts:sign_in_again" if request.user.is_authenticated else "accounts:sign_in"
            return see_other(f"{reverse(page)}?{urlencode(query)}")

        return wrapped

    return decorate if view is None else decorate(view)
