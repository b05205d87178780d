"""Forms with mistakes are shown by a GET, so that Back and Reload never ask to send a form again (Post/Redirect/Get).

Forms with a provider key are not kept: their page responds to the POST, and the script shows it without a navigation.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Any

from django import forms
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, QueryDict

from accounts.errors import SessionStoreUnavailable
from accounts.sessions.store import translate_store_errors
from accounts.shortcuts import see_other

PARAMETER = "again"
LIFETIME_SECONDS = 3600
MAX_LENGTH = 64 * 1024  # characters that are kept of one form
_NOT_KEPT = ("csrfmiddlewaretoken", "submission")


def posted(request: HttpRequest) -> QueryDict | None:
    """The data that a form is bound to: what was sent, or what was sent before this GET. None for a new form."""
    if request.method == "POST":
        return request.POST
    kept = _kept(request)
    return None if kept is None else QueryDict(kept["data"])


def redirect(request: HttpRequest, form: forms.Form) -> HttpResponse | None:
    """Keep an invalid form for an hour, and redirect to the GET that shows it.

    For a GET with such a form, adds the errors that only the service found, and returns None. None as well if the form
    cannot be kept: then the response to the POST shows it.
    """
    if request.method != "POST":
        if (kept := _kept(request)) is not None:
            _add_errors(form, kept["errors"])
        return None
    data = request.POST.copy()
    for name in _NOT_KEPT:
        data.pop(name, None)
    text, number = data.urlencode(), secrets.token_hex(16)
    if len(text) > MAX_LENGTH:
        return None
    errors = {field: [str(message) for message in messages] for field, messages in form.errors.items()}
    try:
        with translate_store_errors():
            cache.set(_cache_key(request, number), {"data": text, "errors": errors}, LIFETIME_SECONDS)
    except SessionStoreUnavailable:
        return None
    query = request.GET.copy()
    query[PARAMETER] = number
    return see_other(f"{request.path}?{query.urlencode()}")


def _kept(request: HttpRequest) -> dict[str, Any] | None:
    number = request.GET.get(PARAMETER, "")[:64]
    if not number:
        return None
    found: dict[str, Any] | None = None
    with suppress(SessionStoreUnavailable), translate_store_errors():
        found = cache.get(_cache_key(request, number))
    return found


def _add_errors(form: forms.Form, errors: dict[str, list[str]]) -> None:
    for field, messages in errors.items():
        known = [str(message) for message in form.errors.get(field, [])]
        for message in messages:
            if message not in known:
                form.add_error(field if field in form.fields else None, message)


def _cache_key(request: HttpRequest, number: str) -> str:
    return f"strake.rejected:{request.user.pk}:{number}"
