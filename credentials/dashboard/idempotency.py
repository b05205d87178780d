"""Forms that take effect once, although people double-click, reload and go back."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress

from django.contrib import messages
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse

from accounts.audit import actor_of
from accounts.errors import ServerBusy, SessionStoreUnavailable, TooManyRequests
from accounts.sessions.store import translate_store_errors
from accounts.shortcuts import see_other
from accounts.transactions import without_connection
from credentials import outbound

FIELD = "submission"
LIFETIME_SECONDS = 3600
# Longer than the timeout of the key check, which the first request may be waiting for.
WAIT_SECONDS = 15


class IdempotencyKey:
    """A random number in a hidden field of a form. A second POST with the same number redirects to the first result.

    A page that shows a token is the response to a POST, and the token is stored nowhere. Without this, reloading such
    a page would issue another token.
    """

    def __init__(self, request: HttpRequest) -> None:
        number = request.POST.get(FIELD, "")[:64] or self.generate()
        self._cache_key = f"strake.submission:{request.user.pk}:{number}"
        self._request = request

    @staticmethod
    def generate() -> str:
        """A value for the hidden field `submission`."""
        return secrets.token_hex(16)

    def earlier_result(self) -> HttpResponse | None:
        """None for the first POST with this number. For later ones, a redirect to the result of the first.

        Waits while the first request is still running, if a thread can be spared for that. Raises
        `SessionStoreUnavailable` before anything has been done.
        """
        if self._is_first():
            return None
        try:
            with outbound.place_of(actor_of(self._request).user.pk):
                return self._wait_for_result()
        except (TooManyRequests, ServerBusy):
            messages.info(self._request, "Strake is still working on this. Reload in a moment.")
            return see_other("credentials:endpoints")

    def _wait_for_result(self) -> HttpResponse | None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._is_first():
            with translate_store_errors():
                url = cache.get(self._cache_key)
            if url:
                messages.info(
                    self._request,
                    "You already sent this form, so nothing was done twice. If you didn't copy the token, rotate it to "
                    "get a new one.",
                )
                return see_other(url)
            if time.monotonic() > deadline:
                break
            with without_connection():
                time.sleep(0.1)
        return None

    def _is_first(self) -> bool:
        with translate_store_errors():
            return bool(cache.add(self._cache_key, "", LIFETIME_SECONDS))

    # These two ignore a store that is down: the response may hold the only copy of a token and must reach the person.

    def succeeded(self, url: str) -> None:
        """Store where later POSTs with this number are redirected to."""
        with suppress(SessionStoreUnavailable), translate_store_errors():
            cache.set(self._cache_key, url, LIFETIME_SECONDS)

    def failed(self) -> None:
        """Let the next POST with this number be the first one again."""
        with suppress(SessionStoreUnavailable), translate_store_errors():
            cache.delete(self._cache_key)
