"""Request smuggling: requests that two parsers could read differently are refused or broken off.

The provider of these tests accepts only well-formed requests.
"""

from __future__ import annotations

import time

import pytest

from tests.support.raw import PATIENCE, ask, connected, exchange, get, read
from tests.support.running import Endpoint, Strake
from tests.support.smuggling import CHUNKED, HARMLESS, OFFER, REFUSED, fill, post
from tests.support.upstream import Upstream, eventually, sse


def test_corpus_is_large_enough() -> None:
    assert len(REFUSED) >= 60


@pytest.mark.parametrize("name", REFUSED)
def test_ambiguous_request_is_refused(name: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    response = exchange(strake.address, fill(REFUSED[name], endpoint), silence=PATIENCE)
    assert 400 <= response.status < 600 or (not response.raw and response.closed), response.raw[:200]
    assert response.status != 500
    assert response.closed
    assert response.count <= 1
    time.sleep(0.02)
    # A request may have been started before its body turned out to be malformed, but it is never complete.
    assert not [received for received in upstream.exchanges if received.body_complete]
    assert len(upstream.exchanges) <= 1
    assert all(message.startswith("chunk size b''") for message in upstream.malformed), upstream.malformed


@pytest.mark.parametrize("name", REFUSED)
def test_ambiguous_request_in_single_bytes_is_refused(
    name: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    raw = fill(REFUSED[name], endpoint)
    with connected(strake.address) as connection:
        for index in range(len(raw)):
            try:
                connection.send(raw[index : index + 1])
            except (BrokenPipeError, ConnectionResetError):
                break
        response = read(connection, silence=PATIENCE)
    # Sent in pieces, the bytes after a complete request are another request, and may get a response.
    assert response.closed
    assert response.status != 500
    assert not [received for received in upstream.exchanges if received.body_complete]


@pytest.mark.parametrize("name", HARMLESS)
def test_unusual_request_arrives_once_and_well_formed(
    name: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    raw, body = HARMLESS[name]
    response = exchange(strake.address, fill(raw, endpoint))
    assert response.status == 200
    assert len(upstream.exchanges) == 1
    assert not upstream.malformed
    only = upstream.last
    assert only.body == body
    assert only.header("x-trailer") is None
    assert only.header("host") == upstream.url.removeprefix("http://").encode()
    assert len(only.all("authorization")) == 1
    assert only.header("upgrade") is None
    assert only.header("http2-settings") is None


@pytest.mark.parametrize("framing", [b"Content-Length: 300000", b"Transfer-Encoding: chunked"])
def test_body_after_an_upgrade_offer_arrives_complete(
    framing: bytes, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """Java's client and `curl --http2` send it like this. The first piece of the body comes with the head."""
    pieces = [bytes([65 + number]) * 30_000 for number in range(10)]
    sent = pieces
    if framing.endswith(b"chunked"):
        sent = [*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n"]
    head = fill(post(*OFFER, framing), endpoint)
    response = exchange(strake.address, head + sent[0], *sent[1:], silence=PATIENCE)
    assert (response.status, response.closed) == (200, True)
    assert upstream.last.body == b"".join(pieces)
    assert len(upstream.exchanges) == 1


def test_trailer_does_not_become_a_header(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """In one packet, the trailer is parsed before the application reads the headers."""
    trailer = b"X-Forwarded-For: 1.2.3.4\r\nX-Api-Key: other\r\nX-New: 1\r\n\r\n"
    assert exchange(strake.address, fill(CHUNKED, endpoint) + b"3\r\nabc\r\n0\r\n" + trailer).status == 200
    names = {name.lower() for name, _ in upstream.last.headers}
    assert names == {b"host", b"transfer-encoding", b"authorization", b"x-strake-hop"}


def test_pipelined_request_is_not_served(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """The first request gets its complete response, then the connection closes, and the client has to retry."""
    upstream.on("/slow", sse([b"a", b"b", b"c"], every=0.05))
    response = exchange(strake.address, get(endpoint, "/slow") + get(endpoint, "/second"), silence=PATIENCE)
    assert response.status == 200
    assert response.body.endswith(b"1\r\nc\r\n0\r\n\r\n")
    assert response.closed
    assert [received.path for received in upstream.exchanges] == ["/slow"]


def test_garbage_after_a_request_is_ignored(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/slow", sse([b"a", b"b", b"c"], every=0.1))
    response = exchange(strake.address, get(endpoint, "/slow"), b"\x00 garbage\r\n\r\n")
    assert response.status == 200
    assert response.count == 1
    assert b"400" not in response.raw


def test_many_requests_share_one_connection(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    with connected(strake.address) as connection:
        for number in range(20):
            body = b"x" * number
            connection.sendall(get(endpoint, f"/{number}", f"Content-Length: {number}", method="POST") + body)
            response = read(connection, silence=0.05)
            assert response.status == 200
            assert not response.closed
    assert [received.path for received in upstream.exchanges] == [f"/{number}" for number in range(20)]
    assert len({id(received.connection) for received in upstream.exchanges}) == 1


def test_errors_keep_the_connection_usable(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    stale = get(endpoint).replace(endpoint.token.encode(), b"strk_mistyped")
    with connected(strake.address) as connection:
        for _ in range(3):
            connection.sendall(stale)
            assert read(connection, silence=0.05).status == 401
        connection.sendall(get(endpoint))
        assert read(connection, silence=0.05).status == 200


def test_endless_head_is_refused(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    for endless in (b"X-A: 1\r\n" * 100_000, b"X-A: " + b"a" * 1_000_000, b"\r\n" * 400_000):
        start = b"" if endless.startswith(b"\r\n") else get(endpoint)[:-2]
        response = exchange(strake.address, start, endless, silence=PATIENCE)
        assert response.closed
        assert response.status in {431, 0}
    response = exchange(strake.address, b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert response.status in {431, 0}
    assert not upstream.exchanges


def test_malformed_request_is_not_logged(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    before = strake.log()
    for raw in (b"GET /p/canary-7f3a HTTP/1.1\r\nX-Canary-7f3a\x00: 1\r\n\r\n", CHUNKED + b"canary-7f3a\r\n"):
        exchange(strake.address, fill(raw, endpoint))
    logged = strake.log()[len(before) :]
    assert "canary" not in logged
    assert endpoint.token not in logged


def test_refused_client_gets_no_100_continue(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """The malformed body has already arrived when the application would send a 100 Continue."""
    before = strake.log()
    raw = post(b"Expect: 100-continue", b"Transfer-Encoding: chunked", body=b"0x3\r\nabc\r\n0\r\n\r\n")
    response = exchange(strake.address, fill(raw, endpoint))
    assert (response.status, response.count) == (400, 1)
    assert ask(strake.address, get(endpoint)).status == 200
    assert "proxy_failed" not in strake.log()[len(before) :]


def test_truncated_request_is_incomplete_upstream(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint, "/cut", "Content-Length: 100000", method="POST") + b"x" * 50_000)
        eventually(lambda: upstream.exchanges)
    eventually(lambda: upstream.last.closed_at)
    assert not upstream.last.body_complete
