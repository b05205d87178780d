"""The error responses of the management API. Each body is `{"error": {"code", "message"}}`."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse

from accounts.errors import (
    InvalidLabel,
    InvalidWebhook,
    NetworkNotAllowed,
    NotFound,
    QuotaReached,
    ScopeMissing,
    ServerBusy,
    SessionStoreUnavailable,
    Suspended,
    TooManyRequests,
    UnknownNotice,
)
from credentials import errors

if TYPE_CHECKING:
    from ninja import NinjaAPI

API_PATH = "/api/"


class PreconditionFailed(Exception):
    """The object has another entity tag than the client expects."""

    def __init__(self) -> None:
        super().__init__("It has been changed since you read it. Read it again, and repeat the change if it fits.")


class InvalidCursor(Exception):
    """The text is no cursor of this list."""

    def __init__(self) -> None:
        super().__init__("This is no cursor of this list. Start again without one.")


# Status and code for each exception of the services. The first match counts.
_BY_EXCEPTION: tuple[tuple[type[Exception], HTTPStatus, str], ...] = (
    (NotFound, HTTPStatus.NOT_FOUND, "not_found"),
    (Suspended, HTTPStatus.FORBIDDEN, "suspended"),
    (ScopeMissing, HTTPStatus.FORBIDDEN, "scope_missing"),
    (NetworkNotAllowed, HTTPStatus.FORBIDDEN, "network_not_allowed"),
    (PreconditionFailed, HTTPStatus.PRECONDITION_FAILED, "changed_meanwhile"),
    (InvalidCursor, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_cursor"),
    (InvalidLabel, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_label"),
    (UnknownNotice, HTTPStatus.UNPROCESSABLE_ENTITY, "unknown_notice"),
    (InvalidWebhook, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_webhook"),
    (errors.KeyRefused, HTTPStatus.UNPROCESSABLE_ENTITY, "key_refused"),
    (errors.KeyUnchecked, HTTPStatus.BAD_GATEWAY, "key_unchecked"),
    (errors.InvalidKey, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_key"),
    (errors.InvalidDestination, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_destination"),
    (errors.InvalidLimit, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_limit"),
    (errors.UnknownProvider, HTTPStatus.UNPROCESSABLE_ENTITY, "unknown_provider"),
    (errors.SealError, HTTPStatus.SERVICE_UNAVAILABLE, "vault_unavailable"),
    (QuotaReached, HTTPStatus.FORBIDDEN, "quota_reached"),
    (TooManyRequests, HTTPStatus.TOO_MANY_REQUESTS, "rate_limited"),
    (ServerBusy, HTTPStatus.SERVICE_UNAVAILABLE, "busy"),
    (SessionStoreUnavailable, HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable"),
)

_BY_STATUS = {
    400: ("bad_request", "This request is malformed."),
    401: ("unauthorized", "Send a valid access token: Authorization: Bearer pat_…"),
    403: ("forbidden", "This is not allowed."),
    404: ("not_found", "There is nothing here."),
    405: ("method_not_allowed", "This URL does not support that method."),
    411: ("length_required", "Send the body with its Content-Length."),
    413: ("too_large", f"The body is larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes."),
    429: ("rate_limited", "Too many requests. Try again later."),
    503: ("store_unavailable", "Strake can't reach one of its stores. Try again soon."),
}


class TooManyFailures(Exception):
    """Too many invalid access tokens from one address. `retry_after` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__()
        self.retry_after = retry_after


def error_response(status: int, code: str = "", message: str = "") -> JsonResponse:
    """An error response. The code and the message default to those of the status."""
    default_code, default_message = _BY_STATUS.get(status, ("error", HTTPStatus(status).phrase))
    body = {"error": {"code": code or default_code, "message": message or default_message}}
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return JsonResponse(body, status=status, headers=headers)


def install(api: NinjaAPI) -> None:
    """Map the exceptions of the operations to error responses. Any other exception is a bug and results in a 500."""
    # Here, since pages need the middleware below and not the library.
    from ninja.errors import AuthenticationError, HttpError, ValidationError

    def service_error(request: HttpRequest, error: Any) -> HttpResponse:
        status, code = next((status, code) for kind, status, code in _BY_EXCEPTION if isinstance(error, kind))
        response = error_response(status, code, str(error))
        if isinstance(error, TooManyRequests | ServerBusy):
            response.headers["Retry-After"] = str(error.retry_after)
        return response

    def invalid(request: HttpRequest, error: Any) -> HttpResponse:
        first = error.errors[0]
        location = [str(part) for part in first["loc"]]
        if location[0] == "path":
            return error_response(HTTPStatus.NOT_FOUND)
        # Never `input` or `ctx`: they repeat the input, which may be a provider key.
        name = ".".join(location[2:]) or "body"
        return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", f"{name}: {first['msg']}")

    def malformed(request: HttpRequest, error: Any) -> HttpResponse:
        return error_response(error.status_code, message="The body is not valid JSON.")

    def rate_limited(request: HttpRequest, error: Any) -> HttpResponse:
        response = error_response(HTTPStatus.TOO_MANY_REQUESTS)
        response.headers["Retry-After"] = str(error.retry_after)
        return response

    for kind, _, _ in _BY_EXCEPTION:
        api.add_exception_handler(kind, service_error)
    api.add_exception_handler(ValidationError, invalid)
    api.add_exception_handler(HttpError, malformed)
    api.add_exception_handler(RequestDataTooBig, lambda request, error: error_response(413))
    api.add_exception_handler(AuthenticationError, lambda request, error: error_response(401))
    api.add_exception_handler(TooManyFailures, rate_limited)


class ApiErrors:
    """Middleware that gives Django's own error responses under /api/ the same body: unknown path, wrong method, …"""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        if not request.path.startswith(API_PATH) or response.status_code < HTTPStatus.BAD_REQUEST or is_json:
            return response
        translated = error_response(response.status_code)
        for name in ("Allow", "Retry-After"):
            if name in response.headers:
                translated.headers[name] = response.headers[name]
        return translated
