"""Finds the client's Strake token in any position where SDKs send an API key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import unquote_to_bytes

from accounts import tokens
from credentials.destinations import FORBIDDEN_HEADERS
from credentials.models import BEARER_TOKEN_PREFIX
from proxy.errors import AmbiguousToken, InvalidToken, MissingToken
from proxy.http.names import CREDENTIAL_HEADERS

WEBSOCKET_PROTOCOL_PREFIX = b"openai-insecure-api-key."
# Not as keys: a browser or a server in between sends some of these by itself.
_HOLD_NO_KEY = frozenset(name.encode() for name in FORBIDDEN_HEADERS)
_PREFIX = BEARER_TOKEN_PREFIX.encode()
_OTHER_KEY = (
    "The key in this request is not a Strake token. Send the endpoint's token, which begins with strk_, as the API "
    "key. The provider's own key stays in Strake."
)
_MISTYPED = (
    "This Strake token is incomplete or mistyped: it does not match its own checksum. Copy the whole token, 54 "
    "characters from strk_ on. If nobody has it any more, rotate it on the endpoint's page."
)
_WORD = re.compile(rb"(?<![0-9A-Za-z_-])strk_[0-9A-Za-z]{49}(?![0-9A-Za-z_-])")


def find_digest(
    headers: Sequence[tuple[bytes, bytes]], query: bytes, knows: Callable[[bytes], bool] = lambda _: False
) -> bytes:
    """Return the digest of the only well-formed Strake token of a request. The look-up decides if it is known.

    `knows` tells of a digest whether its token was found before. Then its checksum is not computed again.

    Some tools fill two positions, one with a stale or dummy value, so values without a well-formed token are ignored.
    A token counts as a word of a value: alone, behind any scheme, in quotes, or in the user name or password of Basic.
    If there is none in the usual positions, it may be in any header that can hold a key and in any parameter, since the
    names of the endpoint's own are not known before the look-up.

    Raises `MissingToken` if every position is empty, `InvalidToken` if no value is well-formed, `AmbiguousToken` if
    there are two different tokens.
    """
    found: bytes | None = None
    candidates = _candidates(headers, query)
    for value in candidates:
        digest = hashlib.sha256(value).digest()
        if not knows(digest) and not tokens.is_well_formed(value.decode("latin-1"), BEARER_TOKEN_PREFIX):
            words = _words(value)
            if not words:
                continue
            digest = tokens.digest(_only(words))
        if found is None:
            found = digest
        elif digest != found:
            raise AmbiguousToken
    if found is not None:
        return found
    elsewhere = [word for name, value in headers if name not in _HOLD_NO_KEY for word in _words(value, is_basic=False)]
    if _PREFIX in query:
        values = [unquote_to_bytes(parameter.partition(b"=")[2]) for parameter in query.split(b"&")]
        elsewhere += [word for value in values for word in _words(value, is_basic=False)]
    if elsewhere:
        return tokens.digest(_only(elsewhere))
    if not candidates:
        raise MissingToken
    raise InvalidToken(_MISTYPED if any(_PREFIX in value for value in candidates) else _OTHER_KEY)


def _candidates(headers: Iterable[tuple[bytes, bytes]], query: bytes) -> list[bytes]:
    """Return the non-empty value of every usual position."""
    found = []
    for name, value in headers:
        if name in CREDENTIAL_HEADERS:
            stripped = value.strip()
            if name == b"authorization" and stripped[:7].lower() == b"bearer ":
                stripped = stripped[7:].lstrip()
            if stripped:
                found.append(stripped)
        elif name == b"sec-websocket-protocol":
            protocols = [protocol.strip() for protocol in value.split(b",")]
            length = len(WEBSOCKET_PROTOCOL_PREFIX)
            found += [one[length:] for one in protocols if one.startswith(WEBSOCKET_PROTOCOL_PREFIX)]
    if query:
        keys = [parameter[4:] for parameter in query.split(b"&") if parameter.startswith(b"key=")]
        found += [unquote_to_bytes(key) for key in keys if key]
    return found


def _words(value: bytes, *, is_basic: bool = True) -> list[str]:
    """Return the well-formed tokens that are words of a value. With `is_basic`, also of what Basic encodes."""
    if is_basic and _PREFIX not in value and value[:6].lower() == b"basic ":
        try:
            value = base64.b64decode(value[6:].strip() + b"==")
        except binascii.Error:
            return []
    if _PREFIX not in value:
        return []
    words = [word.decode() for word in _WORD.findall(value)]
    return [word for word in words if tokens.is_well_formed(word, BEARER_TOKEN_PREFIX)]


def _only(words: list[str]) -> str:
    """Return the one token that is found, perhaps repeatedly. Raises `AmbiguousToken` if there are two."""
    if len(set(words)) > 1:
        raise AmbiguousToken
    return words[0]


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
