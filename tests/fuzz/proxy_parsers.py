"""Fuzz targets for what a client or a provider sends: paths, queries, headers, tokens in them, heads.

Each takes bytes and raises `AssertionError`, or an exception that its parser does not declare, if an invariant breaks.
"""

from __future__ import annotations

import base64
import re
from functools import reduce
from operator import or_
from urllib.parse import unquote_to_bytes

import h11

from accounts import tokens
from credentials.models import BEARER_TOKEN_PREFIX
from proxy.access import bearer_auth
from proxy.errors import AmbiguousToken, BadPath, InvalidToken, MissingToken
from proxy.http import headers, target
from proxy.http.names import NAMES
from proxy.http.response import PROTECTION
from tests.support.passing import passing

BASE = b"/base/v1"
TOKEN = tokens.mint(BEARER_TOKEN_PREFIX)
KEY = bytearray(b"sk-real-0123456789abcdefghij")
# What the HTTP server accepts as a name, in lower case, and in a value.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_TOKEN = re.compile(rb"(?=(strk_[0-9A-Za-z]{49}))")


def path(data: bytes) -> None:
    """An accepted path stays under its base, however often and by whomever it is normalised."""
    sent, _, query = data.partition(b"?")
    try:
        target.check_path(sent)
        target.check_query(query)
        built = target.build_target(BASE, sent, query)
    except BadPath:
        return
    assert built.startswith(BASE + b"/") or (not sent and built.partition(b"?")[0] == BASE)
    decoded = sent
    for _ in range(4):
        for normalised in _normalisations(decoded):
            assert normalised is not None, (sent, decoded)
        decoded = unquote_to_bytes(decoded)
    if target.has_encoded_slash(sent):
        assert b"%" in sent
    else:
        assert unquote_to_bytes(unquote_to_bytes(sent)).count(b"/") == sent.count(b"/")
    _assert_one_request(b"GET " + built + b" HTTP/1.1\r\nhost: a\r\n\r\n", built)


def _normalisations(sent: bytes) -> list[bytes | None]:
    """The path as servers normalise it. None if it leaves the base."""
    spellings = {sent, sent.replace(b"\\", b"/"), re.sub(rb";[^/]*", b"", sent), re.split(rb"[?#\x00]", sent)[0]}
    spellings |= {re.sub(rb"(?<=[^/])[. ]+(?=/|$)", b"", sent) if not re.search(rb"/\.\.?(/|$)", sent) else sent}
    return [_resolve(spelling) for spelling in spellings]


def _resolve(sent: bytes) -> bytes | None:
    """Remove dot segments (RFC 3986 §5.2.4). None if the path climbs above its start."""
    kept: list[bytes] = []
    for segment in sent.split(b"/"):
        if segment == b"..":
            if not kept or kept == [b""]:
                return None
            kept.pop()
        elif segment != b".":
            kept.append(segment)
    return b"/".join(kept)


def _assert_one_request(raw: bytes, expected: bytes) -> None:
    """Another parser reads exactly one request with the expected target."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(raw)
    event = parser.next_event()
    assert isinstance(event, h11.Request)
    assert event.target == expected
    assert isinstance(parser.next_event(), h11.EndOfMessage)
    assert parser.trailing_data == (b"", False)


def pairs_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """The header lines that the HTTP server would accept, as it would pass them on."""
    found = []
    for line in data.split(b"\n"):
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if _NAME.fullmatch(name) and _VALUE.fullmatch(value):
            found.append((name, value))
    return found


_NEVER_UPSTREAM = re.compile(
    rb"(?:connection|keep-alive|proxy-connection|proxy-authorization|te|trailer|upgrade|cookie|forwarded|x-forwarded|"
    rb"x-forwarded-.*|via|x-strake-.*|transfer-encoding|authorization|x-api-key|api-key|x-goog-api-key)"
)


def request_headers(data: bytes) -> None:
    given = pairs_of(data.replace(b"TOKEN", TOKEN.encode()))
    passed = headers.for_upstream(passing(given), b"provider.example", {b"x-key"}, headers.nominated_names(given))
    assert passed[0] == (b"Host", b"provider.example")
    rest = passed[1:]
    assert not [name for name, _ in rest if _NEVER_UPSTREAM.fullmatch(name.replace(b"_", b"-"))]
    assert not [name for name, _ in rest if name.replace(b"_", b"-") in {b"host", b"x-key"}]
    assert not [value for _, value in rest if TOKEN.encode() in value]
    remaining = iter(given)
    assert all(any(pair == other for other in remaining) for pair in rest), "the order has changed"


def response_headers(data: bytes) -> None:
    given = pairs_of(data.replace(b"SECRET", bytes(KEY)))
    kinds = reduce(or_, [NAMES[name].kinds for name, _ in given], 0)
    for to_browser in (False, True):
        passed = headers.for_client(given, kinds, bytearray(KEY), to_browser=to_browser)
        names = [name for name, _ in passed]
        assert not {b"set-cookie", b"connection", b"transfer-encoding", b"x-strake-error"} & set(names)
        for name, value in passed:
            spellings = [value, unquote_to_bytes(value), unquote_to_bytes(unquote_to_bytes(value)), name]
            assert not [spelling for spelling in spellings if KEY.lower() in spelling.lower()]
            assert base64.b64encode(KEY) not in value
        if (b"transfer-encoding", b"chunked") in given:
            assert b"content-length" not in names
        assert not {name for name, _ in PROTECTION} & set(names)
        assert not [name for name in names if name.startswith((b"x-accel-", b"x-sendfile"))]


def bearer(data: bytes) -> None:
    """At most one token is found, and it never stays in the query."""
    head, _, query = data.replace(b"TOKEN", TOKEN.encode()).partition(b"\n\n")
    query = re.sub(rb"[^!-\"$-~]", b"", query)
    try:
        found = bearer_auth.find_digest(pairs_of(head), query)
    except (AmbiguousToken, InvalidToken, MissingToken):
        pass
    else:
        candidates = [match.decode() for match in _TOKEN.findall(head.lower() + head + query)]
        assert found in [tokens.digest(one) for one in candidates if tokens.is_well_formed(one, BEARER_TOKEN_PREFIX)]
    for drop_any_key in (False, True):
        left = bearer_auth.without_tokens(query, drop_any_key=drop_any_key)
        assert TOKEN.encode() not in left
        assert TOKEN.encode() not in unquote_to_bytes(left)
        remaining = iter(query.split(b"&"))
        assert not left or all(part in remaining for part in left.split(b"&"))
