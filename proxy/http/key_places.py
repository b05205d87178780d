"""Puts a provider key into headers and query parameters, in memory that can be wiped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from credentials import places
from credentials.errors import InvalidDestination
from credentials.places import Place, Position
from credentials.providers import BASE64_PLACEHOLDER, SECRET_PLACEHOLDER
from credentials.vault.sealing import wipe
from proxy.http.names import NAMES, NOT_FOR_UPSTREAM

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986 §2.3
_HEX = b"0123456789ABCDEF"


# The name of the first header, its value, to which more headers are joined by line breaks, and how many there are.
KeyHeaders = tuple[bytes, bytearray, int]


class _Part(NamedTuple):
    """A place whose texts are ready to be sent. Without `holds_key`, `before` is all of its value."""

    name: bytes
    before: bytes
    after: bytes
    holds_key: bool
    is_base64: bool


@dataclass(frozen=True, slots=True)
class KeyPlaces:
    """Every place of a credential, and the names that nothing of a client may have.

    `own_names` lacks the names of headers that never pass to a provider.
    """

    headers: tuple[_Part, ...]
    parameters: tuple[_Part, ...]
    own_names: frozenset[bytes]
    parameter_names: frozenset[bytes]

    def without_own_parameters(self, query: bytes) -> bytes:
        """Return a client's query without the parameters that this sets, in any spelling. The others stay as sent."""
        if not query or not self.parameter_names:
            return query
        return b"&".join(
            parameter
            for parameter in query.split(b"&")
            if unquote_to_bytes(parameter.partition(b"=")[0]).strip().lower() not in self.parameter_names
        )

    def key_headers(self, secret: bytearray) -> KeyHeaders | None:
        """Return all headers in one piece of memory, or None if there are only parameters."""
        if not self.headers:
            return None
        pieces: list[bytes | bytearray] = []
        encoded: list[bytearray] = []
        for part in self.headers:
            if pieces:
                pieces += (b"\r\n", part.name, b": ")
            if part.holds_key and not part.is_base64:
                pieces += (part.before, secret, part.after)
            else:
                pieces += _value(part, secret, encoded)
        return self.headers[0].name, _joined(pieces, encoded), len(self.headers)

    def target(self, target: bytes, secret: bytearray) -> bytes | bytearray:
        """Return a target with the parameters at its end. It holds the key if it is a bytearray."""
        if not self.parameters:
            return target
        pieces: list[bytes | bytearray] = [target]
        encoded: list[bytearray] = []
        separator = b"" if target.endswith(b"?") else b"&" if b"?" in target else b"?"
        for part in self.parameters:
            pieces += (separator, part.name, b"=")
            pieces += _value(part, secret, encoded, in_query=True)
            separator = b"&"
        return _joined(pieces, encoded)


@lru_cache(maxsize=1024)
def parse(header_name: str, header_template: str, further: str) -> KeyPlaces:
    """Prepare the places of a row. `further` is `Credential.places` as JSON. Raises `InvalidDestination`.

    They were checked when they were saved. This checks them again, because a database can be edited.
    """
    try:
        stored = json.loads(further)
        name, template, more = places.check(header_name, header_template, stored)
    except (TypeError, ValueError, RecursionError):
        raise InvalidDestination("The places of this key cannot be read.", field="places") from None
    # The key last, as where there is one header only.
    headers = [place for place in more if place.position == Position.HEADER]
    if name:
        headers.append(Place(Position.HEADER, name, template))
    parameters = [place for place in more if place.position == Position.QUERY]
    folded = [place.folded_name.encode() for place in headers]
    return KeyPlaces(
        tuple(_part(place) for place in headers),
        tuple(_part(place) for place in parameters),
        frozenset(own for own in folded if not NAMES[own].kinds & NOT_FOR_UPSTREAM),
        frozenset(place.folded_name.encode() for place in parameters),
    )


def _part(place: Place) -> _Part:
    is_base64 = BASE64_PLACEHOLDER in place.template
    before, _, after = place.template.partition(BASE64_PLACEHOLDER if is_base64 else SECRET_PLACEHOLDER)
    if place.position == Position.QUERY:
        before, after = quote(before, safe=""), quote(after, safe="")
    return _Part(place.name.encode(), before.encode(), after.encode(), place.holds_key, is_base64)


def _value(
    part: _Part, secret: bytearray, encoded: list[bytearray], *, in_query: bool = False
) -> tuple[bytes | bytearray, ...]:
    """Return the pieces of a value. Adds every copy of the key that this makes to `encoded`."""
    if not part.holds_key:
        return (part.before,)
    value = secret
    if part.is_base64:
        value = base64_of(value)
        encoded.append(value)
    if in_query:
        value = percent_encoded(value)
        encoded.append(value)
    return (part.before, value, part.after)


def _joined(pieces: list[bytes | bytearray], encoded: list[bytearray]) -> bytearray:
    """Join pieces, in one step that makes one copy, and wipe those in `encoded`."""
    joined = bytearray().join(pieces)
    for copy in encoded:
        wipe(copy)
    return joined


def base64_of(secret: bytearray) -> bytearray:
    """Encode a secret (RFC 4648 §4).

    The standard library returns bytes, which cannot be wiped. Here every value on the way is an integer below 256, of
    which CPython has one shared object each, so nothing of the secret stays behind.
    """
    size = len(secret)
    out = bytearray(4 * ((size + 2) // 3))
    at = 0
    for start in range(0, size, 3):
        first = secret[start]
        second = secret[start + 1] if start + 1 < size else 0
        third = secret[start + 2] if start + 2 < size else 0
        out[at] = _BASE64[first >> 2]
        out[at + 1] = _BASE64[(first & 3) << 4 | second >> 4]
        out[at + 2] = _BASE64[(second & 15) << 2 | third >> 6] if start + 1 < size else 61  # "="
        out[at + 3] = _BASE64[third & 63] if start + 2 < size else 61
        at += 4
    return out


def percent_encoded(secret: bytearray) -> bytearray:
    """Encode a secret for a query. Like `base64_of`, this leaves nothing behind. It allocates the result once."""
    out = bytearray(sum(1 if byte in _UNRESERVED else 3 for byte in secret))
    at = 0
    for byte in secret:
        if byte in _UNRESERVED:
            out[at] = byte
            at += 1
        else:
            out[at] = 37  # "%"
            out[at + 1] = _HEX[byte >> 4]
            out[at + 2] = _HEX[byte & 15]
            at += 3
    return out
