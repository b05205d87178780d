"""Which headers cross the proxy, in both directions."""

from __future__ import annotations

import binascii
import re
from collections.abc import Collection, Iterable
from urllib.parse import unquote_to_bytes

from accounts import tokens
from credentials.vault.sealing import wipe
from proxy.http.names import (
    CONNECTION,
    CONTENT_LENGTH,
    NAMES,
    NOT_FOR_BROWSERS,
    NOT_FOR_CLIENT,
    TRANSFER_ENCODING,
    Headers,
)

_BASE64_RUN = re.compile(rb"[A-Za-z0-9+/]+")
_URLSAFE = bytes.maketrans(b"-_", b"+/")
_MAX_DECODINGS = 2  # of percent-encoding
_PERCENT = ord("%")
# Shorter keys, which people give to local servers, appear in base64 by chance: "k" in "text/event-stream".
_MIN_ENCODED_KEY = 8


def for_upstream(
    passing: Headers, host: bytes, own: Collection[bytes], nominated: Collection[bytes] = frozenset()
) -> Headers:
    """Return the request headers for the provider: Host first, then the headers that may pass, in their order.

    `passing` are those whose names `proxy.http.names` lets pass, spelled as they came. `own` are names of headers that
    `ConnectionPool.send` adds, and `nominated` those that the request's Connection names, all in lower case and `own`
    with dashes for underscores: no header of such a name passes. No header that contains a Strake token passes.
    """
    if own:
        passing = [pair for pair in passing if NAMES[pair[0]].folded not in own]
    if nominated:
        passing = [pair for pair in passing if NAMES[pair[0]].lower not in nominated]
    if tokens.contains(b"\n".join([value for _, value in passing])):
        passing = [pair for pair in passing if not tokens.contains(pair[1])]
    return [(b"Host", host), *passing]


def for_client(headers: Headers, kinds: int, secret: bytearray, *, to_browser: bool) -> Headers:
    """Return the response headers for the client: those that may pass, in their order, spelled as they came.

    `kinds` are those of all `headers` (`proxy.http.names`).
    No header that contains the provider key, `secret`, passes: neither as it is nor in another case, percent-encoded
    once or twice, or in base64. `to_browser` is for browsers on the dashboard's origin, which get an allow-list only.
    """
    dropped = NOT_FOR_CLIENT
    if to_browser:
        dropped |= NOT_FOR_BROWSERS
    if kinds & TRANSFER_ENCODING:
        dropped |= CONTENT_LENGTH
    length, may_repeat = len(secret), False
    passed = []
    for pair in headers:
        name, value = pair
        if not NAMES[name][2] & dropped:
            passed.append(pair)
            # Every form of the secret is at least as long as itself. Hardly any header is.
            if len(value) >= length or len(name) >= length:
                may_repeat = True
    if kinds & CONNECTION:
        nominated = nominated_names((name.lower(), value) for name, value in headers)
        passed = [pair for pair in passed if pair[0].lower() not in nominated]
    return _without_secret(passed, secret) if may_repeat else passed


def _without_secret(headers: Headers, secret: bytearray) -> Headers:
    """Return the headers that do not repeat the secret. Makes no copy of the secret that cannot be wiped."""
    folded = secret.lower()
    encoded_length = (4 * len(secret) + 2) // 3
    passed = [
        pair for pair in headers if folded not in pair[0].lower() and not _repeats(pair[1], folded, encoded_length)
    ]
    wipe(folded)
    return passed


def reason_for_client(reason: bytes, secret: bytearray) -> bytes | None:
    """Return a reason phrase, or None if it repeats the provider key, as one that is not shorter may."""
    folded = secret.lower()
    repeats = _repeats(reason, folded, (4 * len(secret) + 2) // 3)
    wipe(folded)
    return None if repeats else reason


def _repeats(value: bytes, folded: bytearray, encoded_length: int) -> bool:
    """Whether a value repeats the secret, given in lower case. Its base64 form has at least `encoded_length` digits."""
    for _ in range(_MAX_DECODINGS + 1):
        if folded in value.lower():
            return True
        if len(value) >= encoded_length and _repeats_in_base64(value, folded, encoded_length):
            return True
        if b"%" not in value:
            return False
        value = unquote_to_bytes(value)
    return False


def _repeats_in_base64(value: bytes, folded: bytearray, encoded_length: int) -> bool:
    """Decoded and not compared with encoded secrets: those would be copies that cannot be wiped."""
    if len(folded) < _MIN_ENCODED_KEY:
        return False
    for digits in _BASE64_RUN.findall(value.translate(_URLSAFE)):
        if len(digits) < encoded_length:
            continue
        for start in range(4):  # other digits may precede the encoded text
            group = digits[start:]
            whole = group[:-1] if len(group) % 4 == 1 else group
            if folded in binascii.a2b_base64(whole + b"==").lower():
                return True
    return False


def add_missing(headers: Headers, more: Headers) -> None:
    """Add Strake's headers, unless the provider has sent any of them."""
    names = {name.lower() for name, _ in headers}
    if names.isdisjoint(name for name, _ in more):
        headers.extend(more)


def nominated_names(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Return the names that Connection headers nominate as hop-by-hop (RFC 9110 §7.6.1).

    Content-Length is never among them: without it, the provider would read the body as the next request.
    """
    return _nominated_by([value for name, value in headers if name == b"connection"])


def _nominated_by(values: list[bytes]) -> frozenset[bytes]:
    if not values:
        return frozenset()
    return frozenset(option.strip().lower() for value in values for option in value.split(b",")) - {b"content-length"}
