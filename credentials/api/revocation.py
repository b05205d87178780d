"""Revocation by whoever holds a token (RFC 7009), without signing in: for who finds a leaked one."""

from __future__ import annotations

import json
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse, QueryDict
from ninja import Router

from accounts import audit
from accounts.errors import SessionStoreUnavailable
from accounts.sign_in import throttle
from credentials import services
from credentials.api import errors as api_errors
from credentials.api.schemas import ErrorAnswer

ERRORS = frozenset({400, 411, 413, 429, 503})
_BODY = {
    "type": "object",
    "required": ["token"],
    "properties": {
        "token": {"type": "string", "description": "A bearer token (strk_…) or an access token (pat_…)."},
        "token_type_hint": {"type": "string", "description": "Ignored: a token says itself what it is."},
    },
}

router = Router()


@router.post(
    "/revoke",
    auth=None,
    response={200: None, ERRORS: ErrorAnswer},
    summary="Revoke a token that you hold",
    openapi_extra={
        "security": [],
        "requestBody": {
            "required": True,
            "content": {
                "application/x-www-form-urlencoded": {"schema": _BODY},
                "application/json": {"schema": _BODY},
            },
        },
    },
)
def revoke_held_token(request: HttpRequest) -> HttpResponse:
    """Ends the token and its children, what is in flight with them included. Needs no access token.

    Answers 200 for a token that does not exist or has ended too, as RFC 7009 (section 2.2) requires.
    """
    token = _token_of(request)
    if not token:
        return api_errors.error_response(HTTPStatus.BAD_REQUEST, "invalid_request", "Send the token as token=…")
    address = audit.request_ip(request)
    if not services.revoke_held(plaintext=token, ip=address):
        # Only these count. Others from the same address cannot keep anybody from ending a token that works.
        with suppress(SessionStoreUnavailable):
            limits = throttle.BAD_TOKENS_PER_ADDRESS, throttle.BAD_TOKENS_PER_SITE
            verdict = throttle.count_address(*limits, address)
            if verdict.exceeded:
                raise api_errors.TooManyFailures(verdict.retry_after)
    return HttpResponse()


def _token_of(request: HttpRequest) -> str:
    """Return the parameter `token` of a form (RFC 7009, section 2.1) or of a JSON object, or "" if there is none."""
    found: Any = None
    if request.content_type == "application/json":
        with suppress(ValueError):
            body = json.loads(request.body)
            found = body.get("token") if isinstance(body, dict) else None
    else:
        found = QueryDict(request.body).get("token")
    return found.strip() if isinstance(found, str) else ""
