"""Finds the client's Strake token in any position where SDKs send an API key."""

from __future__ import annotations

from collections.abc import Iterable

from accounts import tokens
from credentials.models import BEARER_TOKEN_PREFIX
from proxy.errors import AmbiguousToken, InvalidToken, MissingToken

# The headers in which SDKs send a key. None of them is forwarded.
CREDENTIAL_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})
WEBSOCKET_PROTOCOL_PREFIX = b"openai-insecure-api-key."


def find_token(headers: Iterable[tuple[bytes, bytes]], query: bytes) -> str:
    """Return the only well-formed Strake token of a request. The look-up decides if it is known.

    Some tools fill two positions, one with a stale or dummy value, so values that are not well-formed are ignored.
    Raises `MissingToken` if every position is empty, `InvalidToken` if no value is well-formed, `AmbiguousToken` if
    there are two different tokens.
    """
    found: str | None = None
    is_missing = True
    for value in _candidates(headers, query):
        is_missing = False
        token = value.decode("latin-1")
        if token == found or not tokens.is_well_formed(token, BEARER_TOKEN_PREFIX):
            continue
        if found is not None:
            raise AmbiguousToken
        found = token
    if found is None:
        found = _find_in_parameters(query)
    if found is None:
        raise MissingToken if is_missing else InvalidToken
    return found


def _find_in_parameters(query: bytes) -> str | None:
    """Return the only token that is the whole value of a parameter, since the endpoint's own may have any name.

    Raises `AmbiguousToken`.
    """
    if BEARER_TOKEN_PREFIX.encode() not in query:
        return None
    values = {parameter.partition(b"=")[2].decode("latin-1") for parameter in query.split(b"&")}
    found = [value for value in values if tokens.is_well_formed(value, BEARER_TOKEN_PREFIX)]
    if len(found) > 1:
        raise AmbiguousToken
    return found[0] if found else None


def _candidates(headers: Iterable[tuple[bytes, bytes]], query: bytes) -> Iterable[bytes]:
    """Yield the non-empty value of every position."""
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


def without_tokens(query: bytes, *, drop_any_key: bool) -> bytes:
    """Return the query without parameters that contain a Strake token, also percent-encoded.

    With `drop_any_key`, without any `key=`: some providers prefer a dummy there to the real header. Other parameters
    stay byte for byte.
    """
    if not (drop_any_key and b"key=" in query) and not tokens.contains(query):
        return query
    return b"&".join(
        parameter
        for parameter in query.split(b"&")
        if not (drop_any_key and parameter.startswith(b"key=")) and not tokens.contains(parameter)
    )
