"""Keys in several headers, in the query and in Base64, as they arrive at a provider."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.errors import InvalidDestination
from proxy.http import key_places
from tests.support.raw import exchange
from tests.support.running import KEY, Endpoint, Strake
from tests.support.upstream import Upstream, fixed

SECRET = "{{secret}}"
AWKWARD_KEY = "user:pass&word=1%41+#/?\"'~"
EVERYWHERE: dict[str, Any] = {
    "header_name": "X-Api-Key",
    "header_template": SECRET,
    "places": [
        ["header", "Authorization", "Basic {{secret:base64}}"],
        ["header", "X-Organization", "acme, inc."],
        ["query", "api_key", SECRET],
        ["query", "api-version", "2026-01-01"],
        ["query", "sig", "v1 {{secret:base64}}"],
    ],
}


def send(endpoint: Endpoint, target: str, *lines: str, strake: Strake, method: str = "GET") -> int:
    head = [f"{method} {endpoint.path}{target} HTTP/1.1", "Host: localhost", *lines, "Connection: close", "", ""]
    return exchange(strake.address, "\r\n".join(head).encode()).status


def bearer(endpoint: Endpoint) -> str:
    return f"Authorization: Bearer {endpoint.token}"


@pytest.fixture(scope="module")
def everywhere(strake: Strake, _upstream: Upstream) -> Endpoint:
    return strake.connect(f"{_upstream.url}/base", key=AWKWARD_KEY, **EVERYWHERE)


@pytest.fixture(scope="module")
def in_query(strake: Strake, _upstream: Upstream) -> Endpoint:
    return strake.connect(_upstream.url, key=AWKWARD_KEY, places=[["query", "token", SECRET]])


def test_key_is_in_every_place(everywhere: Endpoint, strake: Strake, upstream: Upstream) -> None:
    assert send(everywhere, "/x?a=1&b=%20", bearer(everywhere), "X-Other: 1", strake=strake) == 200
    received, encoded = upstream.last, base64.b64encode(AWKWARD_KEY.encode())
    assert not upstream.malformed
    assert received.path == "/base/x"
    assert received.query.decode() == (
        f"a=1&b=%20&api_key={quote(AWKWARD_KEY, safe='')}&api-version=2026-01-01"
        f"&sig={quote('v1 ' + encoded.decode(), safe='')}"
    )
    assert received.header("x-other") == b"1"
    assert received.header("x-organization") == b"acme, inc."
    assert received.header("authorization") == b"Basic " + encoded
    assert received.headers[-1] == (b"X-Api-Key", AWKWARD_KEY.encode())


def test_own_names_of_a_client_are_removed(everywhere: Endpoint, strake: Strake, upstream: Upstream) -> None:
    lines = ["X_Organization: evil", "x-organization: evil", "X-API-KEY: evil", "Authorization: Bearer evil"]
    query = "?api_key=evil&%61PI_key=evil&a=1&api-version=evil&Sig=evil&sig&api+key=kept"
    assert send(everywhere, f"/x{query}", f"api-key: {everywhere.token}", *lines, strake=strake) == 200
    received = upstream.last
    assert b"evil" not in received.raw_head
    assert received.header("x-organization") == b"acme, inc."
    assert received.query.startswith(b"a=1&api+key=kept&api_key=")
    assert received.query.count(b"sig") == 1


@pytest.mark.parametrize(("target", "before"), [("/x", ""), ("/x?", ""), ("/x?a", "a&"), ("/x?token=1&a=", "a=&")])
def test_key_is_only_in_the_query(
    target: str, before: str, in_query: Endpoint, strake: Strake, upstream: Upstream
) -> None:
    assert send(in_query, target, bearer(in_query), "X-Other: 1", strake=strake) == 200
    assert upstream.last.target.decode() == f"/x?{before}token={quote(AWKWARD_KEY, safe='')}"
    assert upstream.last.header("authorization") is None
    assert upstream.last.header("host") == f"127.0.0.1:{upstream.port}".encode()
    assert not upstream.malformed


def test_token_is_found_in_the_same_parameter(in_query: Endpoint, strake: Strake, upstream: Upstream) -> None:
    """An SDK that sends its key in a parameter sends Strake's token there."""
    assert send(in_query, f"/x?token={in_query.token}&a=1", strake=strake) == 200
    assert upstream.last.query.decode() == f"a=1&token={quote(AWKWARD_KEY, safe='')}"
    assert send(in_query, f"/x?token={in_query.token[:-1]}", strake=strake) == 401


def test_body_is_streamed_behind_such_a_head(everywhere: Endpoint, upstream: Upstream) -> None:
    content = (b"x" * 100_000 for _ in range(3))
    response = httpx.post(f"{everywhere.url}/x", headers=everywhere.bearer, content=content, timeout=60)
    assert response.status_code == 200
    assert upstream.last.body_size == 300_000


def test_constants_alone_are_sent_beside_the_query(strake: Strake, upstream: Upstream) -> None:
    places = [["header", "X-A", "1"], ["query", "k", SECRET], ["header", "X-B", "2"]]
    endpoint = strake.connect(upstream.url, places=places)
    assert send(endpoint, "/", bearer(endpoint), strake=strake) == 200
    assert upstream.last.headers[-2:] == [(b"X-A", b"1"), (b"X-B", b"2")]
    assert upstream.last.target == b"/?k=" + KEY.encode()


def test_basic_in_the_only_header(strake: Strake, upstream: Upstream) -> None:
    endpoint = strake.connect(
        upstream.url, key="user:secret", header_name="Authorization", header_template="Basic {{secret:base64}}"
    )
    assert send(endpoint, "/", bearer(endpoint), strake=strake) == 200
    assert upstream.last.header("authorization") == b"Basic dXNlcjpzZWNyZXQ="


def test_repeated_key_does_not_reach_the_client(everywhere: Endpoint, upstream: Upstream) -> None:
    encoded, quoted = base64.b64encode(AWKWARD_KEY.encode()).decode(), quote(AWKWARD_KEY, safe="")
    repeated = {"X-1": AWKWARD_KEY, "X-2": f"Basic {encoded}", "Location": f"/base/x?api_key={quoted}", "X-4": quoted}
    kept = {"X-Organization": "acme, inc.", "X-5": "v1"}
    upstream.on("/base/x", fixed(200, [*repeated.items(), *kept.items()], b"{}"))
    response = httpx.get(f"{everywhere.url}/x", headers=everywhere.bearer, timeout=60)
    assert not set(map(str.lower, repeated)) & set(response.headers)
    assert {name: response.headers[name] for name in kept} == kept


def test_handshake_carries_every_place(everywhere: Endpoint, strake: Strake, upstream: Upstream) -> None:
    lines = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="]
    head = ["GET " + everywhere.path + "/x HTTP/1.1", "Host: localhost", bearer(everywhere), *lines]
    head.append("Sec-WebSocket-Version: 13")
    exchange(strake.address, "\r\n".join([*head, "", ""]).encode())
    received = upstream.last
    assert received.header("x-api-key") == AWKWARD_KEY.encode()
    assert received.header("upgrade") == b"websocket"
    assert b"api_key=" in received.query


@pytest.mark.parametrize(
    "column",
    [
        [["header", "X-A", "b\r\nX-Evil: 1"]],
        [["header", "X-A\r\nX-Evil", "1"]],
        [["query", "a b", SECRET]],
        [["query", "a", "{{secret}}{{secret}}"]],
        [["cookie", "a", SECRET]],
        [["header", "a"]],
        {"a": 1},
        7,
        None,
    ],
)
def test_edited_places_are_refused(column: Any) -> None:
    with pytest.raises(InvalidDestination):
        key_places.parse("", "", json.dumps(column))


@given(st.binary(min_size=1, max_size=100))
def test_encodings_are_the_standard_ones(secret: bytes) -> None:
    assert key_places.base64_of(bytearray(secret)) == base64.b64encode(secret)
    assert key_places.percent_encoded(bytearray(secret)) == quote(secret, safe="").encode()


def test_encoded_copies_are_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[bytearray] = []

    def recording(encode: Callable[[bytearray], bytearray]) -> Callable[[bytearray], bytearray]:
        def encoded(secret: bytearray) -> bytearray:
            copies.append(encode(secret))
            return copies[-1]

        return encoded

    for name in ("base64_of", "percent_encoded"):
        monkeypatch.setattr(key_places, name, recording(getattr(key_places, name)))
    further = json.dumps(EVERYWHERE["places"])
    parsed = key_places.parse(EVERYWHERE["header_name"], EVERYWHERE["header_template"], further)
    secret = bytearray(AWKWARD_KEY.encode())
    parsed.key_headers(secret)
    parsed.target(b"/", secret)
    assert len(copies) == 4
    assert not any(any(copy) for copy in copies)
