"""Find the caller's Strake token, wherever its SDK puts an API key."""

from __future__ import annotations

from collections.abc import Iterable

from accounts import tokens
from credentials.models import BEARER_TOKEN_PREFIX
from proxy.errors import AmbiguousToken, InvalidToken, MissingToken

# The headers SDKs put a key in. None of them is ever forwarded.
CREDENTIAL_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})
WEBSOCKET_PROTOCOL_PREFIX = b"openai-insecure-api-key."


def find_token(headers: Iterable[tuple[bytes, bytes]], query: bytes) -> str:
    """The one well-formed Strake token of a request. Its digest may still be unknown: that is for the look-up.

    Some tools fill two positions, one with a stale or dummy value; what is not of a token's form does not count.
    Raises `MissingToken`, `InvalidToken` (candidates, but none of a token's form), `AmbiguousToken`.
    """
    found: str | None = None
    candidates = False
    for value in _candidates(headers, query):
        candidates = True
        token = value.decode("latin-1")
        if token == found or not tokens.is_well_formed(token, BEARER_TOKEN_PREFIX):
            continue
        if found is not None:
            raise AmbiguousToken
        found = token
    if found is None:
        raise InvalidToken if candidates else MissingToken
    return found


def _candidates(headers: Iterable[tuple[bytes, bytes]], query: bytes) -> Iterable[bytes]:
    for name, value in headers:
        if name in CREDENTIAL_HEADERS:
            stripped = value.strip()
            if name == b"authorization" and stripped[:7].lower() == b"bearer ":
                stripped = stripped[7:].lstrip()
            if stripped:
                yield stripped
        elif name == b"sec-websocket-protocol":
            for protocol in value.split(b","):
                if protocol.strip().startswith(WEBSOCKET_PROTOCOL_PREFIX):
                    yield protocol.strip()[len(WEBSOCKET_PROTOCOL_PREFIX) :]
    if b"key=" in query:
        for parameter in query.split(b"&"):
            if parameter.startswith(b"key=") and len(parameter) > 4:
                yield parameter[4:]


def without_key(query: bytes, *, drop_any: bool, token: str) -> bytes:
    """The query less every `key=` that is a Strake token, and less whatever else holds the caller's `token`.

    Less every `key=` at all with `drop_any`: for providers that would take a dummy there over the real header. The rest
    stays byte for byte.
    """
    presented = token.encode()
    if b"key=" not in query and presented not in query:
        return query
    return b"&".join(
        parameter
        for parameter in query.split(b"&")
        if presented not in parameter
        and not (
            parameter.startswith(b"key=")
            and (drop_any or tokens.is_well_formed(parameter[4:].decode("latin-1"), BEARER_TOKEN_PREFIX))
        )
    )
