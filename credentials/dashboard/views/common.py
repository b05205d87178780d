"""Helpers that the views of this package share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render

from accounts.errors import NotFound
from credentials.dashboard.key_forms import ReplaceKeyForm

View = Callable[..., HttpResponse]
PER_PAGE = 25


def not_found_is_404(view: View) -> View:
    """Turn `NotFound` from a service into a 404 response."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except NotFound as error:
            raise Http404(str(error)) from None

    return wrapped


def posted(request: HttpRequest) -> QueryDict | None:
    """The data that a form with a provider key is bound to: None unless it was sent. `rejected` has that of others."""
    return request.POST if request.method == "POST" else None


def page_of(rows: QuerySet[Any], request: HttpRequest, *, count: int | None = None) -> Page[Any]:
    """The page of `rows` that the parameter `page` asks for, or the nearest one. `count` is their number, if known."""
    paginator = Paginator(rows, PER_PAGE)
    if count is not None:
        vars(paginator)["count"] = count  # a cached property
    return paginator.get_page(request.GET.get("page"))


def render_key_form(request: HttpRequest, template: str, context: dict[str, Any], form: ReplaceKeyForm) -> HttpResponse:
    """Render the page of a form for a key, with the status of the form."""
    response = render(request, template, {**context, "form": form}, status=form.status)
    if form.retry_after:
        response.headers["Retry-After"] = str(form.retry_after)
    return response


def render_dialog(request: HttpRequest, template: str, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
    """Render a confirmation: as a page, or as the content of a dialog if the script of the page asks for that."""
    layout = "dialog.html" if request.headers.get("X-Strake-Dialog") else "base.html"
    return render(request, template, {**context, "layout": layout}, status=status)
