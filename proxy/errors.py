"""Everything the proxy answers by itself, and the one place that turns it into a response.

ProxyError
├── BadRequest (400)             BadPath, AmbiguousToken
├── Unauthorized (401)           MissingToken, InvalidToken
├── Forbidden (403)              EndpointPaused, PathNotAllowed, NetworkNotAllowed
├── UnknownEndpoint (404)
├── MethodNotAllowed (405)
├── BodyTooLarge (413)
├── WebSocketUnsupported (426)
├── (429)                        RateLimited, TooManyAtOnce, TooManyWrongTokens
├── BadGateway (502)             UpstreamUnreachable, UpstreamForbidden, UpstreamInvalid
├── Unavailable (503)            StoreUnavailable, NeedsKeyAgain
└── UpstreamIdle (504)

Each carries a code, which clients see as `x-strake-error`, and a fixed text: nothing of a request, of an upstream's
answer or of a library's message gets in. Errors of the upstream itself are not errors here; they pass unchanged.
"""

from __future__ import annotations

import json
from typing import ClassVar

from credentials.providers import Dialect

Headers = list[tuple[bytes, bytes]]

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY"})


class ProxyError(Exception):
    """Base class. `status`, `code` and `message` are fixed per class."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    message: ClassVar[str] = "Something went wrong in Strake itself. The operator's log has the details."

    def __init__(self, *, retry_after: int | None = None) -> None:
        super().__init__(self.code)
        self.retry_after = retry_after

    def headers(self) -> Headers:
        return []


class BadPath(ProxyError):
    """The path could be read in two ways, or leads out of where it belongs."""

    status = 400
    code = "bad_path"
    message = "This path is not forwarded: it holds dot segments, a backslash, //, or encoded forms of them."


class AmbiguousToken(ProxyError):
    """Two different Strake tokens in one request."""

    status = 400
    code = "ambiguous_token"
    message = "The request carries two different Strake tokens. Send one."


class MissingToken(ProxyError):
    """No credential at all."""

    status = 401
    code = "missing_token"
    message = "Send your Strake token as the API key, for example as Authorization: Bearer strk_…"

    def headers(self) -> Headers:
        return [(b"www-authenticate", b"Bearer")]


class InvalidToken(ProxyError):
    """A token that is mistyped, unknown, revoked or expired; the same answer for all."""

    status = 401
    code = "invalid_token"
    message = "This Strake token is not valid for this endpoint: mistyped, revoked or expired. Make a new one."

    def headers(self) -> Headers:
        return [(b"www-authenticate", b'Bearer error="invalid_token"')]


class EndpointPaused(ProxyError):
    """The owner has paused the endpoint."""

    status = 403
    code = "endpoint_paused"
    message = "This endpoint is paused. Its owner can resume it in the Strake dashboard."


class PathNotAllowed(ProxyError):
    """The token is limited to other paths."""

    status = 403
    code = "path_not_allowed"
    message = "This Strake token may not call this path."


class NetworkNotAllowed(ProxyError):
    """The token is limited to other networks."""

    status = 403
    code = "network_not_allowed"
    message = "This Strake token may not be used from this network."


class UnknownEndpoint(ProxyError):
    """No endpoint at this address."""

    status = 404
    code = "unknown_endpoint"
    message = "There is no Strake endpoint at this address. Check the base URL; the endpoint may have been deleted."


class MethodNotAllowed(ProxyError):
    """A method that is not forwarded. TRACE would have the upstream repeat the real key in its answer."""

    status = 405
    code = "method_not_allowed"
    message = "This method is not forwarded."

    def headers(self) -> Headers:
        return [(b"allow", b", ".join(method.encode() for method in sorted(METHODS)))]


class BodyTooLarge(ProxyError):
    """More request body than the operator allows."""

    status = 413
    code = "body_too_large"
    message = "The request body is larger than this Strake installation allows."


class WebSocketUnsupported(ProxyError):
    """A WebSocket handshake where none can be relayed."""

    status = 426
    code = "websocket_unsupported"
    message = "This endpoint does not take WebSocket connections. Use HTTP."

    def headers(self) -> Headers:
        return [(b"upgrade", b"HTTP/1.1")]


class RateLimited(ProxyError):
    """More requests than the token's limit."""

    status = 429
    code = "rate_limited"
    message = "This Strake token has reached its requests per minute."

    def __init__(self, *, rate: Headers, retry_after: int) -> None:
        super().__init__(retry_after=retry_after)
        self.rate = rate

    def headers(self) -> Headers:
        return self.rate


class TooManyAtOnce(ProxyError):
    """More requests in flight than one endpoint may have in one process."""

    status = 429
    code = "too_many_at_once"
    message = "Too many requests of this endpoint are in flight. Wait until some of them have finished."


class TooManyWrongTokens(ProxyError):
    """One client network sent very many tokens that are not valid."""

    status = 429
    code = "too_many_wrong_tokens"
    message = "Too many requests with invalid tokens came from your network. Check the token before trying again."


class UpstreamUnreachable(ProxyError):
    """No connection to the provider, or it broke before an answer."""

    status = 502
    code = "upstream_unreachable"
    message = "The provider could not be reached."


class UpstreamForbidden(ProxyError):
    """The destination's name leads to an address Strake does not connect to."""

    status = 502
    code = "upstream_forbidden"
    message = "The destination of this endpoint leads to a private address, which Strake does not connect to."


class UpstreamInvalid(ProxyError):
    """What the provider sent is not an HTTP answer."""

    status = 502
    code = "upstream_invalid"
    message = "The provider's answer was not valid HTTP."


class StoreUnavailable(ProxyError):
    """Our own database does not answer. Says nothing about the token."""

    status = 503
    code = "store_unavailable"
    message = "Strake's database does not answer right now. Try again in a moment."


class NeedsKeyAgain(ProxyError):
    """The sealed key does not open, so its owner must paste it again."""

    status = 503
    code = "needs_key_again"
    message = "The stored key of this endpoint cannot be opened. Its owner must paste it again in the Strake dashboard."


class UpstreamIdle(ProxyError):
    """The provider took the request and then stayed silent."""

    status = 504
    code = "upstream_idle"
    message = "The provider did not answer in time."


def response_of(error: ProxyError, dialect: Dialect) -> tuple[int, Headers, bytes]:
    """Status, headers and JSON body of an error, shaped as the SDK of `dialect` expects it."""
    body = json.dumps(_SHAPES[dialect](error)).encode()
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-strake-error", error.code.encode()),
        (b"cache-control", b"no-store"),
        *error.headers(),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    return error.status, headers, body


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
    404: "not_found_error",
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
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def _gemini(error: ProxyError) -> dict[str, object]:
    # https://cloud.google.com/apis/design/errors
    status = _GEMINI_STATUSES.get(error.status, "INTERNAL")
    return {"error": {"code": error.status, "message": error.message, "status": status}}


_SHAPES = {Dialect.OPENAI: _openai, Dialect.ANTHROPIC: _anthropic, Dialect.GEMINI: _gemini}
