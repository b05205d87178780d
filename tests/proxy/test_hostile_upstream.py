"""Providers that misbehave: nothing of theirs harms the caller, another caller, or the key."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.proxy.raw import Answer, ask, connected, exchange, get, read, read_head
from tests.running import KEY, Endpoint, Strake
from tests.upstream import Exchange, Upstream, eventually, fixed, head, raw

OK = b"HTTP/1.1 200 OK\r\n"
AWKWARD_KEY = "sk/with+signs=and%percent&more~" + "x" * 20


@pytest.mark.parametrize(
    "line",
    [
        ("X-Echo", "{}"), ("X-Echo", "Bearer {}"), ("Location", "https://other.example/?key={}"),
        ("Location", "https://user:{}@other.example/"), ("Link", "<https://a/{}>; rel=next"), ("X-Key", '{}'),
        ("X-Debug", "headers={{authorization: Bearer {}}}"), ("Etag", '"{}"'), ("X-Amzn-Trace", "a;{};b"),
        ("Content-Disposition", 'attachment; filename="{}"'), ("Server-Timing", "a;desc={}"), ("Via", "1.1 {}"),
        ("Access-Control-Allow-Headers", "{}"), ("Warning", '199 - "{}"'), ("X-{}", "1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("spelling", ["plain", "quoted", "lower"])
def test_key_echoed_in_a_header_does_not_come_back(
    line: tuple[str, str], spelling: str, strake: Strake, upstream: Upstream
) -> None:
    key = "sk-lower-0123456789abcdef" if spelling == "lower" or "{}" in line[0] else AWKWARD_KEY
    endpoint = strake.connect(upstream.url, key=key)
    echoed = quote(key, safe="") if spelling == "quoted" else key
    upstream.on("/x", fixed(302, [(line[0].format(echoed), line[1].format(echoed)), ("X-Kept", "1")], b"body"))
    answer = ask(strake.address, get(endpoint))
    assert answer.status == 302
    assert key.encode() not in answer.raw
    assert echoed.encode() not in answer.raw
    assert answer.all("x-kept") == [b"1"]
    assert answer.body == b"body"


@pytest.mark.parametrize(
    "spell",
    [
        lambda key: quote(key, safe=""),
        lambda key: quote(key),
        lambda key: quote(key, safe="").lower(),
        lambda key: quote(key, safe="+=&~"),
        lambda key: "".join(f"%{byte:02x}" for byte in key.encode()),
        lambda key: f"{key[:5]}%{ord(key[5]):02X}{key[6:].replace('%', '%25')}",
    ],
    ids=["all quoted", "slashes left", "lower case", "as in a path", "throughout", "one character"],
)
def test_key_echoed_percent_encoded_somehow_does_not_come_back(
    spell: Callable[[str], str], strake: Strake, upstream: Upstream
) -> None:
    """Servers differ in what they encode when they put a value into a Location; each spelling says the same."""
    key = "sk-lower/with+signs=and%percent&more~" + "x" * 20
    endpoint = strake.connect(upstream.url, key=key)
    upstream.on("/x", fixed(302, [("Location", f"https://other.example/?key={spell(key)}"), ("X-Kept", "100%25")]))
    answer = ask(strake.address, get(endpoint))
    assert answer.status == 302
    assert not answer.all("location")
    assert spell(key).encode() not in answer.raw
    assert answer.all("x-kept") == [b"100%25"]


@pytest.mark.parametrize(
    "line",
    [
        "Set-Cookie: strake-session=evil; Path=/", "set-cookie2: a=b", 'Clear-Site-Data: "*"', 'Alt-Svc: h3=":443"',
        "Strict-Transport-Security: max-age=1", "Refresh: 0;url=https://evil.example", "Service-Worker-Allowed: /",
        "Public-Key-Pins: pin", "NEL: {}", "Report-To: {}", "Reporting-Endpoints: a", "X-Strake-Error: invalid_token",
        "Content-Security-Policy: default-src *", "Content-Security-Policy-Report-Only: default-src *",
        "X-Content-Type-Options: none", "Keep-Alive: timeout=9", "Proxy-Authenticate: Basic", "Upgrade: h2c",
        "Trailer: X-A", "X-Hop: 1", "Proxy-Connection: keep-alive",
        "X-Accel-Redirect: /internal/", "X-Sendfile: /etc/passwd", "X-LIGHTTPD-send-file: /etc/passwd",
    ],
)  # fmt: skip
def test_header_for_our_origin_or_for_one_hop_does_not_come_back(
    line: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    name, _, value = line.partition(": ")
    more = [("Connection", "X-Hop")] if name == "X-Hop" else []
    upstream.on("/x", fixed(200, [(name, value), *more, ("X-Kept", "1")], b"<script>alert(1)</script>"))
    answer = ask(strake.address, get(endpoint))
    assert answer.status == 200
    assert value.encode() not in [found for found in answer.all(name) if found]
    assert answer.all("x-kept") == [b"1"]
    assert answer.all("x-content-type-options") == [b"nosniff"]
    assert answer.all("content-security-policy") == [b"sandbox; default-src 'none'"]
    assert not answer.all("x-hop")


REFUSED = {
    "garbage": b"\x00\x01\x02 nothing like HTTP\r\n\r\n",
    "an HTTP/0.9 answer": b"<html>hello</html>",
    "HTTP/2": b"HTTP/2 200\r\ncontent-length: 0\r\n\r\n",
    "no status": b"HTTP/1.1 \r\n\r\n",
    "status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "content-length and chunked": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and content-length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two content-lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "two equal content-lengths": OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "negative content-length": OK + b"Content-Length: -5\r\n\r\nhello",
    "overflowing content-length": OK + b"Content-Length: 99999999999999999999999\r\n\r\nhello",
    "content-length of letters": OK + b"Content-Length: five\r\n\r\nhello",
    "unknown coding": OK + b"Transfer-Encoding: gzip\r\n\r\nhello",
    "coding beside chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "line break in a value": OK + b"X-A: 1\rX-B: 2\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": OK + b"X-A: 1\x00\r\nContent-Length: 0\r\n\r\n",
    "folded header": OK + b"X-A: 1\r\n 2\r\nContent-Length: 0\r\n\r\n",
    "header without a colon": OK + b"nonsense\r\n\r\n",
    "space before the colon": OK + b"Content-Length : 5\r\n\r\nhello",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "close before anything": b"",
    "close in the status line": b"HTTP/1.1 20",
    "close in the headers": OK + b"Content-Le",
    "interim answers only": b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
    "interim answers without end": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 20_000,
    "a head without end": OK + b"X-A: 1\r\n" * 100_000,
    "one header without end": OK + b"X-A: " + b"a" * 1_000_000,
}


@pytest.mark.parametrize("name", REFUSED)
def test_answer_that_is_none_is_a_502(name: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", raw(REFUSED[name]))
    answer = ask(strake.address, get(endpoint))
    assert answer.status == 502
    assert answer.all("x-strake-error")[0] in {b"upstream_invalid", b"upstream_unreachable"}
    assert KEY.encode() not in answer.raw
    assert len(upstream.exchanges) == 1  # no retry: it could be paid for twice
    eventually(lambda: upstream.last.closed_at)
    assert ask(strake.address, get(endpoint, "/next")).status == 200


CUT = {
    "content-length": OK + b"Content-Length: 100\r\n\r\nhello",
    "chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n64\r\nhello",
    "before the last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "before the end of the last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    "bad chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n",
    "chunk longer than its size": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello world\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("then", ["close", "reset"])
def test_answer_cut_short_looks_cut_short(
    name: str, then: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    first, _, rest = CUT[name].partition(b"\r\n\r\n")
    upstream.on("/x", raw(first + b"\r\n\r\n", rest, pause=0.1, then=then))
    answer = exchange(strake.address, get(endpoint), silence=3)
    assert answer.status == 200
    assert answer.closed
    assert_incomplete(answer)


@pytest.mark.parametrize("then", ["close", "reset"])
def test_answer_cut_short_looks_cut_short_to_an_http_1_0_client(
    then: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """It knows no chunks and takes the close for the end, so the connection has to be reset."""
    upstream.on("/x", raw(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n", pause=0.1, then=then))
    answer = exchange(strake.address, get(endpoint).replace(b"HTTP/1.1", b"HTTP/1.0"), silence=3)
    assert answer.status == 200
    assert answer.reset


def assert_incomplete(answer: Answer) -> None:
    if answer.all("transfer-encoding"):
        assert not answer.raw.endswith(b"0\r\n\r\n")
    else:
        assert len(answer.body) < int(answer.all("content-length")[0])


def test_body_that_ends_by_close_arrives_whole(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", raw(OK + b"\r\n", b"hello ", b"world", pause=0.05))
    answer = ask(strake.address, get(endpoint))
    assert answer.all("transfer-encoding") == [b"chunked"]
    assert answer.body == b"6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n"


def test_body_that_ends_by_close_and_is_reset_looks_cut_short(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    upstream.on("/x", raw(OK + b"\r\n", b"hello ", b"world", pause=0.05, then="reset"))
    assert_incomplete(exchange(strake.address, get(endpoint), silence=3))


LEFT_OVER = {
    "a second answer": OK + b"Content-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    "a longer body": OK + b"Content-Length: 5\r\n\r\nhello poison",
    "a body for 204": b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    "a body for 304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison",
    "bytes behind the last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\npoison",
}


@pytest.mark.parametrize("name", LEFT_OVER)
@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_bytes_left_over_reach_nobody(
    name: str, pause: float, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """On a pooled connection they would be the answer to somebody else's next request."""
    data = LEFT_OVER[name]
    at = data.index(b"poison") if b"HTTP" not in data[10:] else data.index(b"HTTP", 10)
    upstream.on("/x", raw(*([data[:at], data[at:]] if pause else [data]), pause=pause, then="hang"))
    first = exchange(strake.address, get(endpoint), silence=0.4)
    assert first.status in {200, 204, 304}
    assert first.count == 1
    assert b"poison" not in first.raw
    for number in range(3):
        answer = ask(strake.address, get(endpoint, f"/next-{number}"))
        assert answer.status == 200
        assert b"poison" not in answer.raw
        assert f"/next-{number}".encode() in answer.body
    assert upstream.exchanges[1].connection is not upstream.exchanges[0].connection


def test_body_in_answer_to_head_reaches_nobody(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", raw(OK + b"Content-Length: 6\r\n\r\npoison", then="hang"))
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint, method="HEAD"))
        assert read_head(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(get(endpoint, "/next"))
        answer = read(connection)
    assert answer.status == 200
    assert b"poison" not in answer.raw


def test_answer_before_the_request_reaches_nobody(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """An answer sent on an idle connection waits there for the next request to come."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(body=b"first")
        await exchange.write(head(200, [("Content-Length", "6")]) + b"poison")
        await exchange.connection.lost.wait()

    upstream.on("/x", script)
    assert ask(strake.address, get(endpoint)).body == b"first"
    for _ in range(5):
        answer = ask(strake.address, get(endpoint, "/next"))
        assert answer.status == 200
        assert b"poison" not in answer.raw


def test_interim_answers_are_kept_from_the_client(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nSet-Cookie: a=b\r\nX-Interim: 1\r\n\r\n"
    upstream.on("/x", raw(interim, OK + b"Content-Length: 5\r\n\r\nhello", pause=0.05, then="keep"))
    answer = ask(strake.address, get(endpoint))
    assert answer.raw.startswith(OK)
    assert not answer.all("x-interim")
    assert answer.body == b"hello"


@pytest.mark.parametrize("status", [200, 299, 418, 451, 529, 599, 600, 999])
def test_any_final_status_passes(status: int, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", fixed(status, [], b"hello"))
    answer = ask(strake.address, get(endpoint))
    assert (answer.status, answer.body) == (status, b"hello")


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/", "https://evil.example/", "/elsewhere", "//evil.example"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_passes_and_is_not_followed(
    status: int, location: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    upstream.on("/x", fixed(status, [("Location", location)], b"moved"))
    answer = ask(strake.address, get(endpoint))
    assert (answer.status, answer.all("location"), answer.body) == (status, [location.encode()], b"moved")
    assert len(upstream.exchanges) == 1


def test_early_answer_to_an_upload_arrives_and_the_upload_stops(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(413, [("Connection", "close")], b"too much")
        await exchange.connection.lost.wait()

    script.early = True  # type: ignore[attr-defined]
    upstream.on("/x", script)
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint, "/x", "Content-Length: 100000000", method="POST") + b"x" * 100_000)
        answer = read(connection, silence=3)
    assert (answer.status, answer.body, answer.closed) == (413, b"too much", True)
    eventually(lambda: upstream.last.closed_at, 1)


def test_keys_and_tokens_are_in_no_log(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    for data in REFUSED.values():
        upstream.on("/x", raw(data[:2000].replace(b"hello", KEY.encode())))
        exchange(strake.address, get(endpoint), silence=0.2)
    time.sleep(0.7)
    log = strake.log()
    for secret in (KEY, endpoint.token, "hello", "poison"):
        assert secret not in log
    assert "Traceback" not in log
