"""What the views of this package share."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from accounts.audit import actor_of
from accounts.models import User


def see_other(to: str, *args: Any) -> HttpResponse:
    """Go to a path or a route with GET, whatever the method was."""
    response = redirect(to, *args)
    response.status_code = 303
    return response


def signed_in(request: HttpRequest) -> User:
    """The person behind a request of a view that lets nobody else in."""
    user = actor_of(request).user
    if user is None:
        raise TypeError("Only a person is ever signed in.")
    return user
