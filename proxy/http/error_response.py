"""Strake's own errors as responses, in the format that the client's SDK expects."""

from __future__ import annotations

import json

from credentials.providers import Dialect
from proxy import cloud_errors, connect_failures, errors, limit_errors
from proxy.errors import ProxyError
from proxy.http.names import Headers
from proxy.http.response import Response


def error_response(error: ProxyError, dialect: Dialect) -> Response:
    """Return the response for an error, with the JSON body that the SDK of `dialect` expects."""
    body = json.dumps(_SHAPES[dialect](error)).encode()
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-strake-error", error.code.encode()),
        (b"cache-control", b"no-store"),
        *error.headers(),
    ]
    if not error.is_retryable:
        headers.append((b"x-should-retry", b"false"))
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    return Response(error.status, headers, body)


def _openai(error: ProxyError) -> dict[str, object]:
    # https://platform.openai.com/docs/guides/error-codes
    kind = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error"}
    return {
        "error": {
            "message": error.message,
            "type": kind.get(error.status, "strake_error"),
            "param": None,
            "code": error.code,
        }
    }


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    410: "not_found_error",
    421: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _anthropic(error: ProxyError) -> dict[str, object]:
    # https://docs.anthropic.com/en/api/errors
    return {
        "type": "error",
        "error": {"type": _ANTHROPIC_TYPES.get(error.status, "api_error"), "message": error.message},
    }


_GEMINI_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    410: "NOT_FOUND",
    421: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def _gemini(error: ProxyError) -> dict[str, object]:
    # https://cloud.google.com/apis/design/errors
    status = _GEMINI_STATUSES.get(error.status, "INTERNAL")
    return {"error": {"code": error.status, "message": error.message, "status": status}}


_SHAPES = {Dialect.OPENAI: _openai, Dialect.ANTHROPIC: _anthropic, Dialect.GEMINI: _gemini}


def error_classes() -> list[type[ProxyError]]:
    """Return every error that has a code of its own."""
    return [
        value
        for module in (errors, connect_failures, cloud_errors, limit_errors)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ProxyError) and value.__module__ == module.__name__
    ]
