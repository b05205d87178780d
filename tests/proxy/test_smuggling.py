"""Requests that two parsers could read differently: refused or cut off, so that the upstream sees one or none.

Everything goes over raw sockets. The upstream of the tests accepts nothing that is not well-formed.
"""

from __future__ import annotations

import time

import pytest

from tests.proxy.raw import ask, connected, exchange, get, read
from tests.running import Endpoint, Strake
from tests.upstream import Upstream, eventually, sse

# What stands for PATH, HOST and AUTH is filled in per endpoint. `SMUGGLED` is a second, forbidden request.
SMUGGLED = b"GET PATH/smuggled HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n"
CHUNKED = b"POST PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nTransfer-Encoding: chunked\r\n\r\n"


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = b"".join(line + b"\r\n" for line in lines)
    return b"POST PATH/x HTTP/" + version + b"\r\nHost: HOST\r\nAUTH\r\n" + head + b"\r\n" + body


REFUSED = {
    "content-length and chunked": post(
        b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "chunked and content-length": post(
        b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "two equal content-lengths": post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"),
    "two different content-lengths": post(b"Content-Length: 3", b"Content-Length: 60", body=b"abc" + SMUGGLED),
    "a list of content-lengths": post(b"Content-Length: 3, 3", body=b"abc"),
    "content-length with a sign": post(b"Content-Length: +3", body=b"abc"),
    "negative content-length": post(b"Content-Length: -1", body=b"abc"),
    "hexadecimal content-length": post(b"Content-Length: 0x3", body=b"abc"),
    "content-length of letters": post(b"Content-Length: abc", body=b"abc"),
    "empty content-length": post(b"Content-Length:", body=b"abc"),
    "content-length with an inner space": post(b"Content-Length: 3 3", body=b"abc"),
    "overflowing content-length": post(b"Content-Length: 18446744073709551619", body=b"abc"),
    "space before the colon of content-length": post(b"Content-Length : 3", body=b"abc"),
    "space before the colon of transfer-encoding": post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "tab before the colon": post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n"),
    "vertical tab before chunked": post(b"Transfer-Encoding:\x0bchunked", body=b"0\r\n\r\n"),
    "unknown transfer coding": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "coding before chunked": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "coding after chunked": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "chunked twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunked and identity on two lines": post(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"
    ),
    "quoted chunked": post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "empty transfer-encoding": post(b"Transfer-Encoding:", body=b"0\r\n\r\n" + SMUGGLED),
    "folded transfer-encoding": post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"),
    "chunked in HTTP/1.0": post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED, version=b"1.0"),
    "two hosts": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nHost: evil.example\r\nAUTH\r\n\r\n",
    "two equal hosts": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "no host": b"GET PATH/x HTTP/1.1\r\nAUTH\r\n\r\n",
    "two hosts in HTTP/1.0": b"GET PATH/x HTTP/1.0\r\nHost: HOST\r\nHost: b\r\nAUTH\r\n\r\n",
    "absolute target": b"GET http://HOSTPATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "absolute target of another host": b"GET http://evil.examplePATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "target without a slash": b"GET x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "asterisk as target": b"OPTIONS * HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "authority as target": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "fragment in the target": b"GET PATH/x#y HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "fragment behind the query": b"GET PATH/x?a#y HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "space in the target": b"GET PATH/x y HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "tab in the target": b"GET PATH/x\ty HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "NUL in the target": b"GET PATH/x\x00y HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "bytes beyond ASCII in the target": b"GET PATH/caf\xc3\xa9 HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "folded header": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX-A: 1\r\n Content-Length: 40\r\n\r\n",
    "folded first header": b"GET PATH/x HTTP/1.1\r\n Host: HOST\r\nAUTH\r\n\r\n",
    "bare line feeds": b"GET PATH/x HTTP/1.1\nHost: HOST\nAUTH\n\n",
    "one bare line feed": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX-A: 1\nX-B: 2\r\n\r\n",
    "bare carriage return": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX-A: 1\rContent-Length: 40\r\n\r\n",
    "NUL in a header value": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX-A: 1\x002\r\n\r\n",
    "NUL in a header name": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX\x00A: 1\r\n\r\n",
    "DEL in a header value": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX-A: 1\x7f\r\n\r\n",
    "header without a name": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n: 1\r\n\r\n",
    "header without a colon": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX-A\r\n\r\n",
    "space in a header name": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX A: 1\r\n\r\n",
    "bytes beyond ASCII in a header name": b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nX\xe9: 1\r\n\r\n",
    "HTTP/0.9": b"GET PATH/x\r\n\r\n",
    "HTTP/0.9 by number": b"GET PATH/x HTTP/0.9\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "HTTP/1.2": b"GET PATH/x HTTP/1.2\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "HTTP/2.0": b"GET PATH/x HTTP/2.0\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version in lower case": b"GET PATH/x http/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "space behind the version": b"GET PATH/x HTTP/1.1 \r\nHost: HOST\r\nAUTH\r\n\r\n",
    "unknown method": b"FOO PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "method in lower case": b"get PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "CONNECT in origin form": b"CONNECT PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n",
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "chunk size in hexadecimal notation": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "negative chunk size": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "chunk size with a space before": CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n",
    "overflowing chunk size": CHUNKED + b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "chunk size ended by a line feed": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "chunk without its line end": CHUNKED + b"3\r\nabcX0\r\n\r\n" + SMUGGLED,
    "chunk longer than its size": CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n",
    "line feed in a chunk extension": CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "content-length as a trailer": CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
    "bare line feed in a trailer": CHUNKED + b"0\r\nX-A: 1\nX-B: 2\r\n\r\n",
}


def fill(raw: bytes, endpoint: Endpoint) -> bytes:
    authorization = b"Authorization: Bearer " + endpoint.token.encode()
    return raw.replace(b"PATH", endpoint.path.encode()).replace(b"HOST", b"localhost").replace(b"AUTH", authorization)


def test_the_corpus_is_big_enough() -> None:
    assert len(REFUSED) >= 60


@pytest.mark.parametrize("name", REFUSED)
def test_ambiguous_request_is_refused(name: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    answer = exchange(strake.address, fill(REFUSED[name], endpoint), silence=3)
    assert 400 <= answer.status < 600 or (not answer.raw and answer.closed), answer.raw[:200]
    assert answer.status != 500
    assert answer.closed
    assert answer.count <= 1
    time.sleep(0.02)
    # A body that turns out bad half-way may have started a request; it must never have become a whole one.
    assert not [one for one in upstream.exchanges if one.body_complete]
    assert len(upstream.exchanges) <= 1
    assert all(message.startswith("chunk size b''") for message in upstream.malformed), upstream.malformed


@pytest.mark.parametrize("name", REFUSED)
def test_ambiguous_request_sent_byte_by_byte_is_refused_too(
    name: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    raw = fill(REFUSED[name], endpoint)
    with connected(strake.address) as connection:
        for index in range(len(raw)):
            try:
                connection.send(raw[index : index + 1])
            except (BrokenPipeError, ConnectionResetError):
                break
        answer = read(connection, silence=3)
    # Sent in pieces, what follows a finished request is a request of its own and may be answered as such.
    assert answer.closed
    assert answer.status != 500
    assert not [one for one in upstream.exchanges if one.body_complete]


OFFER = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")
REFUSED |= {
    "offer of HTTP/2 with content-length and chunked": post(
        *OFFER, b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "offer of HTTP/2 with two content-lengths": post(
        *OFFER, b"Content-Length: 3", b"Content-Length: 60", body=b"abc" + SMUGGLED
    ),
    "offer of HTTP/2 with an unknown coding": post(*OFFER, b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "offer of HTTP/2 with a bad chunk size": post(
        *OFFER, b"Transfer-Encoding: chunked", body=b"0x3\r\nabc\r\n0\r\n\r\n"
    ),
}

HARMLESS = {
    "empty line before the request": (b"\r\n\r\nGET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\n\r\n", b""),
    "chunk extension": (CHUNKED + b"3;name=value\r\nabc\r\n0\r\n\r\n", b"abc"),
    "quoted chunk extension": (CHUNKED + b'3;a="\\"x"\r\nabc\r\n0\r\n\r\n', b"abc"),
    "leading zeros of a chunk size": (CHUNKED + b"0003\r\nabc\r\n000\r\n\r\n", b"abc"),
    "trailer": (CHUNKED + b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\nAuthorization: Bearer x\r\nHost: evil\r\n\r\n", b"abc"),
    "coding in capitals": (CHUNKED.replace(b"chunked", b"Chunked") + b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    "leading zeros of content-length": (post(b"Content-Length: 0003", body=b"abc"), b"abc"),
    "HTTP/1.0": (post(b"Content-Length: 3", body=b"abc", version=b"1.0"), b"abc"),
    "offer of HTTP/2": (
        b"GET PATH/x HTTP/1.1\r\nHost: HOST\r\nAUTH\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + SMUGGLED,
        b"",
    ),
    "offer of HTTP/2 with a body": (post(*OFFER, b"Content-Length: 3", body=b"abc" + SMUGGLED), b"abc"),
    "offer of HTTP/2 with a chunked body": (
        post(*OFFER, b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n" + SMUGGLED),
        b"abc",
    ),
    "request behind a close": (
        post(b"Content-Length: 3", b"Connection: close", body=b"abc" + SMUGGLED),
        b"abc",
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_odd_but_unambiguous_request_arrives_once_and_well_formed(
    name: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    raw, body = HARMLESS[name]
    answer = exchange(strake.address, fill(raw, endpoint), silence=1)
    assert answer.status == 200
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
def test_a_body_behind_an_offer_of_another_protocol_arrives_whole(
    framing: bytes, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """As Java's client and `curl --http2` send it; in pieces, of which the first comes with the head."""
    pieces = [bytes([65 + number]) * 30_000 for number in range(10)]
    sent = pieces
    if framing.endswith(b"chunked"):
        sent = [*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n"]
    head = fill(post(*OFFER, framing), endpoint)
    answer = exchange(strake.address, head + sent[0], *sent[1:], silence=2)
    assert (answer.status, answer.closed) == (200, True)
    assert upstream.last.body == b"".join(pieces)
    assert len(upstream.exchanges) == 1


def test_no_trailer_ever_becomes_a_header(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """In one packet, the trailer is parsed before anything has looked at the headers."""
    trailer = b"X-Forwarded-For: 1.2.3.4\r\nX-Api-Key: other\r\nX-New: 1\r\n\r\n"
    assert exchange(strake.address, fill(CHUNKED, endpoint) + b"3\r\nabc\r\n0\r\n" + trailer).status == 200
    names = {name.lower() for name, _ in upstream.last.headers}
    assert names == {b"host", b"transfer-encoding", b"authorization"}


def test_a_second_request_before_the_first_answer_is_not_served(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """Pipelining: the first request gets its whole answer, then the connection closes; the client sends again."""
    upstream.on("/slow", sse([b"a", b"b", b"c"], every=0.05))
    answer = exchange(strake.address, get(endpoint, "/slow") + get(endpoint, "/second"), silence=2)
    assert answer.status == 200
    assert answer.body.endswith(b"1\r\nc\r\n0\r\n\r\n")
    assert answer.closed
    assert [one.path for one in upstream.exchanges] == ["/slow"]


def test_garbage_behind_a_request_does_not_get_into_its_answer(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    upstream.on("/slow", sse([b"a", b"b", b"c"], every=0.1))
    answer = exchange(strake.address, get(endpoint, "/slow"), b"\x00 garbage\r\n\r\n", silence=2)
    assert answer.status == 200
    assert answer.count == 1
    assert b"400" not in answer.raw


def test_many_requests_follow_each_other_on_one_connection(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    with connected(strake.address) as connection:
        for number in range(20):
            body = b"x" * number
            connection.sendall(get(endpoint, f"/{number}", f"Content-Length: {number}", method="POST") + body)
            answer = read(connection, silence=0.15)
            assert answer.status == 200
            assert not answer.closed
    assert [one.path for one in upstream.exchanges] == [f"/{number}" for number in range(20)]
    assert len({id(one.connection) for one in upstream.exchanges}) == 1


def test_errors_leave_the_connection_usable(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    stale = get(endpoint).replace(endpoint.token.encode(), b"strk_mistyped")
    with connected(strake.address) as connection:
        for _ in range(3):
            connection.sendall(stale)
            assert read(connection, silence=0.2).status == 401
        connection.sendall(get(endpoint))
        assert read(connection, silence=0.3).status == 200


def test_head_that_never_ends_is_bounded(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    for endless in (b"X-A: 1\r\n" * 100_000, b"X-A: " + b"a" * 1_000_000, b"\r\n" * 400_000):
        start = b"" if endless.startswith(b"\r\n") else get(endpoint)[:-2]
        answer = exchange(strake.address, start, endless, silence=3)
        assert answer.closed
        assert answer.status in {431, 0}
    answer = exchange(strake.address, b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", silence=3)
    assert answer.status in {431, 0}
    assert not upstream.exchanges


def test_nothing_of_a_malformed_request_is_logged(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    before = strake.log()
    for raw in (b"GET /p/canary-7f3a HTTP/1.1\r\nX-Canary-7f3a\x00: 1\r\n\r\n", CHUNKED + b"canary-7f3a\r\n"):
        exchange(strake.address, fill(raw, endpoint))
    logged = strake.log()[len(before) :]
    assert "canary" not in logged
    assert endpoint.token not in logged


def test_nothing_is_asked_of_a_client_that_has_been_refused(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """The body is malformed and here already, when the request would ask for it by a 100 Continue."""
    before = strake.log()
    raw = post(b"Expect: 100-continue", b"Transfer-Encoding: chunked", body=b"0x3\r\nabc\r\n0\r\n\r\n")
    answer = exchange(strake.address, fill(raw, endpoint), silence=3)
    assert (answer.status, answer.count) == (400, 1)
    assert ask(strake.address, get(endpoint)).status == 200
    assert "proxy_failed" not in strake.log()[len(before) :]


def test_a_request_cut_off_in_its_body_is_never_whole_for_the_upstream(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint, "/cut", "Content-Length: 100000", method="POST") + b"x" * 50_000)
        eventually(lambda: upstream.exchanges)
    eventually(lambda: upstream.last.closed_at)
    assert not upstream.last.body_complete
