"""Every error of the management API has one shape: `{"error": {"code", "message"}}`."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from accounts.errors import StoreUnavailable
from credentials import errors

API_PATH = "/api/"

# What went wrong in the words of a caller: status and code per error of ours. The first match counts.
_MAPPING: tuple[tuple[type[Exception], HTTPStatus, str], ...] = (
    (errors.NotFound, HTTPStatus.NOT_FOUND, "not_found"),
    (errors.KeyRefused, HTTPStatus.UNPROCESSABLE_ENTITY, "key_refused"),
    (errors.KeyUnchecked, HTTPStatus.BAD_GATEWAY, "key_unchecked"),
    (errors.InvalidKey, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_key"),
    (errors.InvalidDestination, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_destination"),
    (errors.InvalidLimit, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_limit"),
    (errors.UnknownProvider, HTTPStatus.UNPROCESSABLE_ENTITY, "unknown_provider"),
    (errors.SealError, HTTPStatus.SERVICE_UNAVAILABLE, "vault_unavailable"),
    (StoreUnavailable, HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable"),
)

_BY_STATUS = {
    400: ("bad_request", "This request cannot be understood."),
    401: ("unauthorized", "Send a valid access token: Authorization: Bearer pat_…"),
    403: ("forbidden", "This is not allowed."),
    404: ("not_found", "There is nothing here."),
    405: ("method_not_allowed", "This address does not take that method."),
    411: ("length_required", "Send the body with its Content-Length."),
    413: ("too_large", f"The body is larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes."),
    429: ("rate_limited", "Too many requests. Try again later."),
    503: ("store_unavailable", "Strake cannot reach one of its own stores just now. Try again soon."),
}


class TooManyFailures(Exception):
    """One address presented too many access tokens that are none."""

    def __init__(self, retry_after: int) -> None:
        super().__init__()
        self.retry_after = retry_after


def answer(status: int, code: str = "", message: str = "") -> JsonResponse:
    """An error in the one shape; code and message default to what the status says."""
    default_code, default_message = _BY_STATUS.get(status, ("error", HTTPStatus(status).phrase))
    body = {"error": {"code": code or default_code, "message": message or default_message}}
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return JsonResponse(body, status=status, headers=headers)


def install(api: NinjaAPI) -> None:
    """Map every exception an operation can raise. What is not listed stays a bug, and a 500."""

    def known(request: HttpRequest, error: Any) -> HttpResponse:
        status, code = next((status, code) for kind, status, code in _MAPPING if isinstance(error, kind))
        return answer(status, code, str(error))

    def invalid(request: HttpRequest, error: Any) -> HttpResponse:
        first = error.errors[0]
        where = [str(part) for part in first["loc"]]
        if where[0] == "path":
            return answer(HTTPStatus.NOT_FOUND)
        # `loc` and `msg` only: `input` and `ctx` repeat what was sent, and that may be a key.
        name = ".".join(where[2:]) or "body"
        return answer(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", f"{name}: {first['msg']}")

    def refused(request: HttpRequest, error: Any) -> HttpResponse:
        return answer(error.status_code, message="The body is not valid JSON.")

    def limited(request: HttpRequest, error: Any) -> HttpResponse:
        response = answer(HTTPStatus.TOO_MANY_REQUESTS)
        response.headers["Retry-After"] = str(error.retry_after)
        return response

    for kind, _, _ in _MAPPING:
        api.add_exception_handler(kind, known)
    api.add_exception_handler(ValidationError, invalid)
    api.add_exception_handler(HttpError, refused)
    api.add_exception_handler(RequestDataTooBig, lambda request, error: answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE))
    api.add_exception_handler(AuthenticationError, lambda request, error: answer(HTTPStatus.UNAUTHORIZED))
    api.add_exception_handler(TooManyFailures, limited)


class ApiErrors:
    """Middleware: what Django itself answers under /api/ (no such path, wrong method, store down) in the same shape."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        if not request.path.startswith(API_PATH) or response.status_code < HTTPStatus.BAD_REQUEST or is_json:
            return response
        translated = answer(response.status_code)
        for name in ("Allow", "Retry-After"):
            if name in response.headers:
                translated.headers[name] = response.headers[name]
        return translated
