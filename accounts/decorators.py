"""What a view may demand of the person in front of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, overload
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from accounts import sessions

View = Callable[..., HttpResponse]


@overload
def recent_sign_in_required(view: View) -> View: ...
@overload
def recent_sign_in_required(*, return_to: Callable[..., str] | None = None) -> Callable[[View], View]: ...
def recent_sign_in_required(
    view: View | None = None, *, return_to: Callable[..., str] | None = None
) -> View | Callable[[View], View]:
    """Let somebody in who signed in within the last 15 minutes; send others to `accounts:sign_in_again` first.

    To open a form, ten (`sessions.is_recent`). What a form brings too late is not done and not kept: it may hold a key.
    They come back to the page they wanted. A view that takes only POST has no page of its own: there `return_to` is
    called with the view's keyword arguments and says where to come back to.
    """

    def decorate(view: View) -> View:
        @login_required
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if sessions.is_recent(request):
                return view(request, *args, **kwargs)
            query = {"next": return_to(**kwargs) if return_to else request.path}
            if request.method == "POST":
                query["unsaved"] = "1"
            response = HttpResponseRedirect(f"{reverse('accounts:sign_in_again')}?{urlencode(query)}")
            response.status_code = 303
            return response

        return guarded

    return decorate if view is None else decorate(view)
