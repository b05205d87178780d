"""What the views of this package share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

from django.contrib import messages
from django.core.cache import cache
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render

from accounts.errors import StoreUnavailable
from accounts.stores import answering
from credentials.errors import NotFound

View = Callable[..., HttpResponse]

SUBMISSION_SECONDS = 3600
# Longer than the provider is given to answer about a key.
WAIT_SECONDS = 15


def missing_is_404(view: View) -> View:
    """Answer 404 where a service finds nothing that this person may touch."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except NotFound as error:
            raise Http404(str(error)) from None

    return wrapped


def see_other(url: str) -> HttpResponse:
    """Go to `url` with GET, whatever the method was."""
    response = HttpResponseRedirect(url)
    response.status_code = 303
    return response


def ask(request: HttpRequest, template: str, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
    """A question before a deed: a page of its own, or only its inside where strake.js wants it for a dialog."""
    layout = "dialog.html" if request.headers.get("X-Strake-Dialog") else "base.html"
    return render(request, template, {**context, "layout": layout}, status=status)


class Submission:
    """One form sent once, although people click twice, reload and go back.

    Pages that show a token are the answer to a POST, since the token is kept nowhere. The form carries a random
    number, and a second POST with the same number does nothing but lead to the result of the first.
    """

    def __init__(self, request: HttpRequest) -> None:
        number = request.POST.get("submission", "")[:64] or secrets.token_hex(8)
        self._key = f"strake.submission:{request.user.pk}:{number}"
        self._request = request

    @staticmethod
    def number() -> str:
        """The value of the hidden field `submission`."""
        return secrets.token_hex(16)

    def earlier_result(self) -> HttpResponse | None:
        """None if this is the first time; else, once that has ended, the way to what the first time made.

        Raises `StoreUnavailable`: nothing has been done then.
        """
        end = time.monotonic() + WAIT_SECONDS
        while not self._is_first():
            with answering():
                url = cache.get(self._key)
            if url:
                messages.info(
                    self._request,
                    "That was done already, so nothing was done twice. The token was shown once: rotate it if you "
                    "did not keep it.",
                )
                return see_other(url)
            if time.monotonic() > end:
                break
            time.sleep(0.1)
        return None

    def _is_first(self) -> bool:
        with answering():
            return bool(cache.add(self._key, "", SUBMISSION_SECONDS))

    # The deed is done, or is not, by now. Its answer may hold the only plaintext of a token, which a store that has
    # stopped answering meanwhile must not cost.

    def succeeded(self, url: str) -> None:
        with suppress(StoreUnavailable), answering():
            cache.set(self._key, url, SUBMISSION_SECONDS)

    def failed(self) -> None:
        with suppress(StoreUnavailable), answering():
            cache.delete(self._key)
