"""The errors that Strake itself responds with. `proxy.http.error_response` makes responses of them.

ProxyError (500)
├── BadRequest (400)
├── BadPath (400)
├── AmbiguousToken (400)
├── TokenInPath (400)
├── MissingToken (401)
├── InvalidToken (401)
├── BrowserRefused (403)
├── EndpointPaused (403)
├── PathNotAllowed (403)
├── NetworkNotAllowed (403)
├── OriginNotAllowed (403)
├── MintsCredentials (403)
├── MethodNotAllowed (405)
├── UnknownEndpoint (410)
├── BodyTooLarge (413)
├── NoEndpoint (421)
├── WebSocketUnsupported (426)
├── RateLimited (429)
├── TooManyAtOnce (429)
├── OwnerBusy (429)
├── TooManyWrongTokens (429)
├── TooManyNames (429)
├── TooManyConnects (429)
├── TooManyRefusals (429)
├── UpstreamUnreachable (502)
├── UpstreamForbidden (502)
├── UpstreamReserved (502)
├── UpstreamInvalid (502)
├── StoreUnavailable (503)
├── NeedsKeyAgain (503)
├── KeyReplaced (503)
├── UpstreamIdle (504)
└── Loop (508)

`proxy.connect_failures` has subclasses of `UpstreamUnreachable`, and `proxy.cloud_errors` and `proxy.limit_errors` two
more errors each. Each error has a code, which clients see as `x-strake-error`, and a message: neither contains anything
from a request, from a provider's response or from another exception, except the character that makes a path bad. Error
responses of providers are not errors here, and pass unchanged.
"""

from __future__ import annotations

from typing import ClassVar

from proxy.http.names import Headers

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY"})


class ProxyError(Exception):
    """Base class. Subclasses set `status`, `code`, `message` and `is_retryable`. `retry_after` is in seconds.

    If the same request cannot succeed later, `is_retryable` is False and the response has `x-should-retry: false`. The
    SDKs of OpenAI and Anthropic obey it. Without it, Claude Code repeats a 401 for three minutes.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    is_retryable: ClassVar[bool] = True
    message: str = "Something went wrong in Strake itself. The operator's log has the details."

    def __init__(self, message: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(self.code)
        if message:
            self.message = message
        self.retry_after = retry_after

    def headers(self) -> Headers:
        """Return the headers that only this error has."""
        return []


class BadRequest(ProxyError):
    """The request is not well-formed HTTP/1.1. `proxy.server.protocol` responds with it and other statuses."""

    status = 400
    code = "bad_request"
    is_retryable = False
    message = "This is not a well-formed HTTP/1.1 request."


class BadPath(ProxyError):
    """Two servers could read the path differently, or it leaves its base path."""

    status = 400
    code = "bad_path"
    is_retryable = False
    message = "This path is not forwarded: two servers could read it differently."


class AmbiguousToken(ProxyError):
    """Two different Strake tokens in one request."""

    status = 400
    code = "ambiguous_token"
    is_retryable = False
    message = "The request carries two different Strake tokens. Send one."


class TokenInPath(ProxyError):
    """The path contains a Strake token, which must not reach the provider."""

    status = 400
    code = "token_in_path"
    is_retryable = False
    message = "The path contains a Strake token. Send the token as the API key."


class MissingToken(ProxyError):
    """The request has no credential."""

    status = 401
    code = "missing_token"
    is_retryable = False
    message = "Send your Strake token as the API key, for example as Authorization: Bearer strk_…"

    def headers(self) -> Headers:
        return [(b"www-authenticate", b"Bearer")]


class InvalidToken(ProxyError):
    """The token is mistyped, unknown, revoked or expired. Clients cannot tell which."""

    status = 401
    code = "invalid_token"
    is_retryable = False
    message = "This Strake token is not valid for this endpoint: mistyped, revoked or expired. Make a new one."

    def headers(self) -> Headers:
        return [(b"www-authenticate", b'Bearer error="invalid_token"')]


class BrowserRefused(ProxyError):
    """A browser asks for a page or a part of a page, or a page of the dashboard asks."""

    status = 403
    code = "browser_refused"
    is_retryable = False
    message = (
        "Endpoints are for API clients. A browser may call them with fetch from another site. It may not open them as "
        "a page or load them as a script, a style, an image, a frame or a worker."
    )


class EndpointPaused(ProxyError):
    """The owner has paused the endpoint."""

    status = 403
    code = "endpoint_paused"
    is_retryable = False
    message = "This endpoint is paused. Its owner can resume it in the Strake dashboard."


class PathNotAllowed(ProxyError):
    """The token is limited to other paths."""

    status = 403
    code = "path_not_allowed"
    is_retryable = False
    message = "This Strake token may not call this path. The endpoint's owner can add a token that may."


class NetworkNotAllowed(ProxyError):
    """The token is limited to other networks."""

    status = 403
    code = "network_not_allowed"
    is_retryable = False
    message = "This Strake token may not be used from this network."


class OriginNotAllowed(ProxyError):
    """The token is for web pages of other origins."""

    status = 403
    code = "origin_not_allowed"
    is_retryable = False
    message = "This Strake token is for web pages of other origins. The endpoint's owner can add one for this page."


class MintsCredentials(ProxyError):
    """The provider would hand out a credential that outlives the token, which does not allow that."""

    status = 403
    code = "mints_credentials"
    is_retryable = False
    message = (
        "This Strake token may not create credentials at the provider, because they would outlive it. The endpoint's "
        "owner can add a token that allows it, under its limits."
    )


class UnknownEndpoint(ProxyError):
    """The URL names no endpoint. With a 404, Claude Code would show "There's an issue with the selected model"."""

    status = 410
    code = "unknown_endpoint"
    is_retryable = False
    message = "There is no Strake endpoint at this address. Check the base URL; the endpoint may have been deleted."


class NoEndpoint(ProxyError):
    """The URL is that of Strake itself, followed by the path of a provider's API. No 404 either."""

    status = 421
    code = "no_endpoint"
    is_retryable = False
    message = "This is the address of Strake and not of an endpoint. Use the endpoint's URL as the base URL."


class MethodNotAllowed(ProxyError):
    """The method is not forwarded. The response to a TRACE would contain the provider key."""

    status = 405
    code = "method_not_allowed"
    is_retryable = False
    message = "This method is not forwarded."

    def headers(self) -> Headers:
        return [(b"allow", b", ".join(method.encode() for method in sorted(METHODS)))]


class BodyTooLarge(ProxyError):
    """The request body is larger than `STRAKE_MAX_BODY_MB`."""

    status = 413
    code = "body_too_large"
    is_retryable = False
    message = "The request body is larger than this Strake installation allows."


class WebSocketUnsupported(ProxyError):
    """The provider does not speak WebSocket at this path."""

    status = 426
    code = "websocket_unsupported"
    is_retryable = False
    message = "This endpoint does not take WebSocket connections. Use HTTP."

    def headers(self) -> Headers:
        return [(b"upgrade", b"HTTP/1.1")]


class RateLimited(ProxyError):
    """The token has reached its requests per minute."""

    status = 429
    code = "rate_limited"
    message = "This Strake token has reached its requests per minute."

    def __init__(self, *, rate: Headers, retry_after: int, limit: int, wait: float) -> None:
        """`wait` is the exact number of seconds until the next request, `retry_after` the same in whole seconds."""
        super().__init__(retry_after=retry_after)
        self.rate = rate
        self.limit = limit
        self.wait = wait

    def headers(self) -> Headers:
        return self.rate


class TooManyAtOnce(ProxyError):
    """The endpoint has reached its limit of concurrent requests in this process."""

    status = 429
    code = "too_many_at_once"
    message = "Too many requests of this endpoint are in flight. Wait until some of them have finished."


class OwnerBusy(ProxyError):
    """The endpoint's owner has reached the limit of concurrent requests of one person in this process."""

    status = 429
    code = "owner_busy"
    message = "Too many requests of this endpoint's owner are in flight. Wait until some of them have finished."


class TooManyWrongTokens(ProxyError):
    """Too many invalid tokens from one network."""

    status = 429
    code = "too_many_wrong_tokens"
    message = "Too many requests with invalid tokens came from your network. Check the token before trying again."


class TooManyNames(ProxyError):
    """The look-ups of this owner's host names are held up by names that do not answer."""

    status = 429
    code = "too_many_names"
    message = (
        "Host names of your endpoints' destinations do not resolve, and hold up this one. Correct or delete the "
        "endpoints with such destinations, or try again later."
    )


class TooManyConnects(ProxyError):
    """Too many connections of this owner are being opened, to destinations that do not answer."""

    status = 429
    code = "too_many_connects"
    message = (
        "Too many connections to your endpoints' destinations are being opened at once, because destinations do not "
        "answer. Send fewer requests to those, or try again later."
    )


class TooManyRefusals(ProxyError):
    """The token was refused so often that, for up to a second, it is refused without another look-up."""

    status = 429
    code = "too_many_refusals"
    message = "Strake has just refused this token many times, so it does not check it again for a second."


class UpstreamUnreachable(ProxyError):
    """The connection to the provider failed, or closed before a response."""

    status = 502
    code = "upstream_unreachable"
    message = "The provider could not be reached, or closed the connection without an answer."

    def __init__(self, kind: str = "") -> None:
        """`kind` is for the log."""
        super().__init__()
        self.kind = kind


class UpstreamForbidden(ProxyError):
    """The destination resolves to an address that Strake does not connect to."""

    status = 502
    code = "upstream_forbidden"
    is_retryable = False
    message = (
        "The destination of this endpoint leads to a private address, which Strake does not connect to. An operator "
        "can allow it with STRAKE_ALLOWED_PRIVATE_UPSTREAMS."
    )


class UpstreamReserved(ProxyError):
    """The operator has opened the destination for other people than the endpoint's owner."""

    status = 502
    code = "upstream_reserved"
    is_retryable = False
    message = "The destination is open for other people only. An operator can add the endpoint's owner to its entry."


class UpstreamInvalid(ProxyError):
    """The provider's response is not valid HTTP."""

    status = 502
    code = "upstream_invalid"
    message = "The provider's answer was not valid HTTP."


class StoreUnavailable(ProxyError):
    """The database is unavailable, so nothing is known about the token."""

    status = 503
    code = "store_unavailable"
    message = "Strake's database does not answer right now. Try again in a moment."


class NeedsKeyAgain(ProxyError):
    """The stored provider key cannot be decrypted. Its owner must paste it again."""

    status = 503
    code = "needs_key_again"
    is_retryable = False
    message = "The stored key of this endpoint cannot be opened. Its owner must paste it again in the Strake dashboard."


class KeyReplaced(ProxyError):
    """The provider key was replaced while the request was in flight with the former one."""

    status = 503
    code = "key_replaced"
    message = "The key of this endpoint was replaced during this request. Send the request again."


class UpstreamIdle(ProxyError):
    """The provider sent nothing for `STRAKE_IDLE_SECONDS`."""

    status = 504
    code = "upstream_idle"
    message = "The provider did not answer in time."


class Loop(ProxyError):
    """The destination leads back to this Strake, or the request has passed it before."""

    status = 508
    code = "loop"
    is_retryable = False
    message = "The destination of this endpoint leads back to Strake. Its owner must enter the provider's own address."
