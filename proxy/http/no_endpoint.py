"""Calls of a provider's API at the address of Strake itself: the base URL in some tool lacks the endpoint.

A page would tell an SDK nothing. It shows the message of an error in its provider's format.
"""

from __future__ import annotations

import re

from credentials.models import BEARER_TOKEN_PREFIX, endpoint_url
from credentials.providers import Dialect
from proxy.errors import NoEndpoint
from proxy.http.error_response import error_response
from proxy.http.request import ProxyRequest
from proxy.http.response import Response

EXAMPLE = "abc123def456"
_PREFIX = BEARER_TOKEN_PREFIX.encode()
# The first segment of providers' APIs in base URLs and SDKs. No page of Strake has one of these.
_API_PATH = re.compile(
    rb"/(?:v[0-9]+(?:alpha|beta)?[0-9]*|openai|anthropic|gemini|p|models?|mcp|chat|completions|responses|messages"
    rb"|embeddings|files|batches|images|audio|realtime|upload|predictions|deployments)(?:/|\Z)"
)
_FROM_PAGES = frozenset({b"cookie", b"referer"})
_NOT_FOR_APIS = re.compile(rb"/(?:api|static)/")  # the management API says itself what it expects


def is_call(request: ProxyRequest) -> bool:
    """Whether a request that is for no endpoint is meant for one, by its path or by a token."""
    path = request.path
    if _API_PATH.match(path):
        return True
    return not _NOT_FOR_APIS.match(path) and any(
        _PREFIX in value for name, value in request.headers if name not in _FROM_PAGES
    )


def error() -> NoEndpoint:
    message = f"{NoEndpoint.message} The endpoint's page in Strake shows it. It looks like {endpoint_url(EXAMPLE)}"
    return NoEndpoint(message)


def response(request: ProxyRequest) -> Response:
    """Return the error in the format of the SDK that the request probably comes from."""
    path = request.path
    dialect = request.dialect
    if dialect is Dialect.OPENAI and path.endswith((b"/messages", b"/messages/count_tokens")):
        dialect = Dialect.ANTHROPIC
    elif dialect is Dialect.OPENAI and path.startswith((b"/v1beta/", b"/v1alpha/")):
        dialect = Dialect.GEMINI
    found = error_response(error(), dialect)
    if request.has_unread_body:
        found.headers.append((b"connection", b"close"))
    return found
