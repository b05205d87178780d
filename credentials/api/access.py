"""Who may call an operation: access tokens and their scopes."""

from __future__ import annotations

from contextlib import suppress

from django.http import HttpRequest
from ninja.security import HttpBearer

from accounts import access_tokens, audit
from accounts.actors import Person
from accounts.errors import SessionStoreUnavailable
from accounts.sign_in import throttle
from credentials.api import errors as api_errors

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class AccessTokenAuth(HttpBearer):
    """`Authorization: Bearer pat_…`, with one scope that the operation needs.

    With `safe_only`, an operation that changes something is a bug: it lacks `auth=TOKENS` or `auth=ENDPOINTS`.
    """

    def __init__(self, scope: str, *, safe_only: bool = False) -> None:
        super().__init__()
        self.scope = scope
        self._safe_only = safe_only

    def authenticate(self, request: HttpRequest, token: str) -> Person | None:
        if self._safe_only and request.method not in _SAFE:
            raise TypeError("An operation that changes something names the scope that it needs.")
        found = access_tokens.authenticate(token, address=audit.request_ip(request))
        if found is None:
            # Only invalid tokens count. Others from the same address cannot lock out a valid one.
            with suppress(SessionStoreUnavailable):
                verdict = throttle.count_address(
                    throttle.BAD_TOKENS_PER_ADDRESS, throttle.BAD_TOKENS_PER_SITE, audit.request_ip(request)
                )
                if verdict.exceeded:
                    raise api_errors.TooManyFailures(verdict.retry_after)
            return None
        access_tokens.require_scope(found, self.scope)
        return audit.token_actor(request, found)


READ = AccessTokenAuth("read", safe_only=True)  # every operation that names no other
ANY = AccessTokenAuth("read")
TOKENS = AccessTokenAuth("tokens")
ENDPOINTS = AccessTokenAuth("endpoints")


def actor_of(request: HttpRequest) -> Person:
    """The person for whom an operation acts. Raises `TypeError` if the operation takes no access token."""
    actor = request.auth  # type: ignore[attr-defined]
    if not isinstance(actor, Person):
        raise TypeError("The API acts for a person only.")
    return actor
