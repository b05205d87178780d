"""Providers that misbehave cannot harm the client, other clients, or the key."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest

from proxy.http.response import PROTECTION
from tests.support.raw import Response, ask, connected, exchange, get, read, read_head
from tests.support.running import KEY, Endpoint, Strake
from tests.support.upstream import Exchange, Upstream, eventually, fixed, head, raw

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
def test_header_that_echoes_the_key_is_dropped(
    line: tuple[str, str], spelling: str, strake: Strake, upstream: Upstream
) -> None:
    key = "sk-lower-0123456789abcdef" if spelling == "lower" or "{}" in line[0] else AWKWARD_KEY
    endpoint = strake.connect(upstream.url, key=key)
    echoed = quote(key, safe="") if spelling == "quoted" else key
    upstream.on("/x", fixed(302, [(line[0].format(echoed), line[1].format(echoed)), ("X-Kept", "1")], b"body"))
    response = ask(strake.address, get(endpoint))
    assert response.status == 302
    assert key.encode() not in response.raw
    assert echoed.encode() not in response.raw
    assert response.all("x-kept") == [b"1"]
    assert response.body == b"body"


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
def test_header_with_the_encoded_key_is_dropped(
    spell: Callable[[str], str], strake: Strake, upstream: Upstream
) -> None:
    """Servers differ in which characters of a Location they encode."""
    key = "sk-lower/with+signs=and%percent&more~" + "x" * 20
    endpoint = strake.connect(upstream.url, key=key)
    upstream.on("/x", fixed(302, [("Location", f"https://other.example/?key={spell(key)}"), ("X-Kept", "100%25")]))
    response = ask(strake.address, get(endpoint))
    assert response.status == 302
    assert not response.all("location")
    assert spell(key).encode() not in response.raw
    assert response.all("x-kept") == [b"100%25"]


def in_base64(key: str, before: bytes = b"", after: bytes = b"", *, urlsafe: bool = False) -> str:
    text = before + key.encode() + after
    return (base64.urlsafe_b64encode(text) if urlsafe else base64.b64encode(text)).decode()


@pytest.mark.parametrize("urlsafe", [False, True], ids=["standard", "urlsafe"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b"a", b"b"), (b"ab", b""), (b"user:", b"\n"), (b'{"key": "', b'"}'), (b"\xff" * 7, b"\xfe" * 8)],
)
def test_header_with_the_key_in_base64_is_dropped(
    before: bytes, after: bytes, *, urlsafe: bool, strake: Strake, upstream: Upstream
) -> None:
    key = "sk-?>?>~~~ÿ"[:9] + "0123456789abcdefghijk"
    endpoint = strake.connect(upstream.url, key=key)
    encoded = in_base64(key, before, after, urlsafe=urlsafe)
    echoed = {
        "X-Plain": encoded,
        "X-Unpadded": f"Basic {encoded.rstrip('=')}",
        "X-Glued": f"x{encoded}",
        "X-Cut": f"abc{encoded.rstrip('=')}",
        "X-Quoted": quote(encoded, safe=""),
        "X-Twice": quote(quote(encoded, safe=""), safe=""),
        "X-Upper": in_base64(key.upper(), before, after, urlsafe=urlsafe),
    }
    kept = ("X-Kept", in_base64("another-key-that-is-exactly-as-long"))
    upstream.on("/x", fixed(200, [*echoed.items(), kept]))
    response = ask(strake.address, get(endpoint))
    assert response.status == 200
    assert [name for name in echoed if response.all(name)] == []
    assert response.all("x-kept") == [kept[1].encode()]


def test_header_with_the_key_in_another_case_is_dropped(strake: Strake, upstream: Upstream) -> None:
    key = "sk-Lower/And+Upper=0123456789"
    endpoint = strake.connect(upstream.url, key=key)
    twice = quote(quote(key, safe=""), safe="")
    echoed = {"X-Upper": key.upper(), "X-Lower": key.lower(), "X-Swapped": key.swapcase(), "X-Twice": twice}
    upstream.on("/x", fixed(200, [*echoed.items(), ("X-Kept", "1")]))
    response = ask(strake.address, get(endpoint))
    assert [name for name in echoed if response.all(name)] == []
    assert response.all("x-kept") == [b"1"]


@pytest.mark.parametrize(
    "line",
    [
        "Set-Cookie: strake-session=evil; Path=/", "set-cookie2: a=b", 'Clear-Site-Data: "*"', 'Alt-Svc: h3=":443"',
        "Strict-Transport-Security: max-age=1", "Refresh: 0;url=https://evil.example", "Service-Worker-Allowed: /",
        "Public-Key-Pins: pin", "NEL: {}", "Report-To: {}", "Reporting-Endpoints: a", "X-Strake-Error: invalid_token",
        "Content-Security-Policy: default-src *", "Content-Security-Policy-Report-Only: default-src *",
        "X-Content-Type-Options: none", "Keep-Alive: timeout=9", "Proxy-Authenticate: Basic", "Upgrade: h2c",
        "Trailer: X-A", "X-Hop: 1", "Proxy-Connection: keep-alive",
        "X-Accel-Redirect: /internal/", "X-Accel-Buffering: yes", "X-Accel-Expires: 9", "x-accel-limit-rate: 9",
        "X-Accel-Charset: utf-7", "X-Sendfile: /etc/passwd", "X-Sendfile2: /etc/passwd 0-", "X-Sendfile-Temporary: /a",
        "X-LIGHTTPD-send-file: /etc/passwd", "X-LIGHTTPD-KBytes-per-second: 1", "X-LiteSpeed-Location: /internal/",
        "X-LiteSpeed-Cache-Control: public", "X-LSCACHE: 1", "X-REPROXY-URL: http://127.0.0.1/",
        "X-REPROXY-FILE: /etc/passwd", "Surrogate-Control: max-age=9", "Surrogate-Key: a", "CDN-Cache-Control: public",
        "Cloudflare-CDN-Cache-Control: public", "Edge-Control: max-age=9d", "Cache-Tag: a", "xkey: a",
        "X-Envoy-Immediate-Health-Check-Fail: true", "Cross-Origin-Resource-Policy: cross-origin",
    ],
)  # fmt: skip
def test_origin_and_hop_headers_are_dropped(line: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    name, _, value = line.partition(": ")
    more = [("Connection", "X-Hop")] if name == "X-Hop" else []
    upstream.on("/x", fixed(200, [(name, value), *more, ("X-Kept", "1")], b"<script>alert(1)</script>"))
    response = ask(strake.address, get(endpoint))
    assert response.status == 200
    assert value.encode() not in [found for found in response.all(name) if found]
    assert response.all("x-kept") == [b"1"]
    for protection, protected in PROTECTION:
        assert response.all(protection.decode()) == [protected]
    assert not response.all("x-hop")


@pytest.mark.parametrize("status", [204, 304])
def test_response_without_body_declares_no_wrong_length(
    status: int, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    upstream.on("/x", raw(b"HTTP/1.1 %d Reason\r\nContent-Length: 5\r\nX-Kept: 1\r\n\r\n" % status, then="keep"))
    response = exchange(strake.address, get(endpoint))
    assert (response.status, response.body) == (status, b"")
    assert response.all("content-length") == ([] if status == 204 else [b"5"])
    assert response.all("x-kept") == [b"1"]


REFUSED = {
    "garbage": b"\x00\x01\x02 nothing like HTTP\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "HTTP/2": b"HTTP/2 200\r\ncontent-length: 0\r\n\r\n",
    "no status": b"HTTP/1.1 \r\n\r\n",
    "status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status below 100": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "status 0": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n",
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
    "interim responses only": b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
    "endless interim responses": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 20_000,
    "endless head": OK + b"X-A: 1\r\n" * 100_000,
    "endless header": OK + b"X-A: " + b"a" * 1_000_000,
}


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_upstream_response_returns_502(
    name: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    upstream.on("/x", raw(REFUSED[name]))
    response = ask(strake.address, get(endpoint))
    assert response.status == 502
    assert response.all("x-strake-error")[0] in {b"upstream_invalid", b"upstream_unreachable"}
    assert KEY.encode() not in response.raw
    assert len(upstream.exchanges) == 1  # no retry: the provider may bill twice
    eventually(lambda: upstream.last.closed_at)
    assert ask(strake.address, get(endpoint, "/next")).status == 200


TRUNCATED = {
    "content-length": OK + b"Content-Length: 100\r\n\r\nhello",
    "chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n64\r\nhello",
    "before the last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "before the end of the last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    "bad chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n",
    "chunk longer than its size": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello world\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("then", ["close", "reset"])
def test_truncated_response_is_recognisable(
    name: str, then: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    first, _, rest = TRUNCATED[name].partition(b"\r\n\r\n")
    upstream.on("/x", raw(first + b"\r\n\r\n", rest, pause=0.1, then=then))
    response = exchange(strake.address, get(endpoint))
    assert response.status == 200
    assert response.closed
    assert_incomplete(response)


@pytest.mark.parametrize("then", ["close", "reset"])
def test_http_1_0_client_sees_a_truncated_response(
    then: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """It does not know chunks, and a normal close would be the end of the body, so the connection is reset."""
    upstream.on("/x", raw(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n", pause=0.1, then=then))
    response = exchange(strake.address, get(endpoint).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert response.status == 200
    assert response.reset


def assert_incomplete(response: Response) -> None:
    if response.all("transfer-encoding"):
        assert not response.body.endswith(b"0\r\n\r\n")
    else:
        assert len(response.body) < int(response.all("content-length")[0])


def test_body_that_ends_by_close_arrives_complete(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", raw(OK + b"\r\n", b"hello ", b"world", pause=0.05))
    response = ask(strake.address, get(endpoint))
    assert response.all("transfer-encoding") == [b"chunked"]
    assert response.body == b"6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n"


def test_reset_body_without_length_is_truncated(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", raw(OK + b"\r\n", b"hello ", b"world", pause=0.05, then="reset"))
    assert_incomplete(exchange(strake.address, get(endpoint)))


SURPLUS = {
    "a second response": OK + b"Content-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    "a longer body": OK + b"Content-Length: 5\r\n\r\nhello poison",
    "a body for 204": b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    "a body for 304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison",
    "bytes after the last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\npoison",
}


@pytest.mark.parametrize("name", SURPLUS)
@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_surplus_bytes_reach_no_client(
    name: str, pause: float, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """On a pooled connection they would be the response to another client's request."""
    data = SURPLUS[name]
    at = data.index(b"poison") if b"HTTP" not in data[10:] else data.index(b"HTTP", 10)
    upstream.on("/x", raw(*([data[:at], data[at:]] if pause else [data]), pause=pause, then="hang"))
    first = exchange(strake.address, get(endpoint), silence=0.4)
    assert first.status in {200, 204, 304}
    assert first.count == 1
    assert b"poison" not in first.raw
    for number in range(3):
        response = ask(strake.address, get(endpoint, f"/next-{number}"))
        assert response.status == 200
        assert b"poison" not in response.raw
        assert f"/next-{number}".encode() in response.body
    assert upstream.exchanges[1].connection is not upstream.exchanges[0].connection


def test_body_in_response_to_head_reaches_no_client(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", raw(OK + b"Content-Length: 6\r\n\r\npoison", then="hang"))
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint, method="HEAD"))
        assert read_head(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(get(endpoint, "/next"))
        response = read(connection)
    assert response.status == 200
    assert b"poison" not in response.raw


def test_unsolicited_response_reaches_no_client(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """It arrives on an idle connection, and must not become the response to the next request."""
    written = threading.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.respond(body=b"first")
        await exchange.write(head(200, [("Content-Length", "6")]) + b"poison")
        written.set()
        await exchange.connection.lost.wait()

    upstream.on("/x", script)
    assert ask(strake.address, get(endpoint)).body == b"first"
    # A response that comes after the next request was sent answers that request: HTTP/1.1 has no other order.
    assert written.wait(60)
    for _ in range(5):
        response = ask(strake.address, get(endpoint, "/next"))
        assert response.status == 200
        assert b"poison" not in response.raw


def test_interim_responses_are_not_forwarded(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nSet-Cookie: a=b\r\nX-Interim: 1\r\n\r\n"
    upstream.on("/x", raw(interim, OK + b"Content-Length: 5\r\n\r\nhello", pause=0.05, then="keep"))
    response = ask(strake.address, get(endpoint))
    assert response.raw.startswith(OK)
    assert not response.all("x-interim")
    assert response.body == b"hello"


@pytest.mark.parametrize("status", [200, 299, 418, 451, 529, 599])
def test_any_final_status_passes(status: int, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", fixed(status, [], b"hello"))
    response = ask(strake.address, get(endpoint))
    assert (response.status, response.body) == (status, b"hello")


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/", "https://evil.example/", "elsewhere", "//evil.example"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_passes_and_is_not_followed(
    status: int, location: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    upstream.on("/x", fixed(status, [("Location", location)], b"moved"))
    response = ask(strake.address, get(endpoint))
    assert (response.status, response.all("location"), response.body) == (status, [location.encode()], b"moved")
    assert len(upstream.exchanges) == 1


def test_early_response_stops_the_upload(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.respond(413, [("Connection", "close")], b"too much")
        await exchange.connection.lost.wait()

    script.early = True  # type: ignore[attr-defined]
    upstream.on("/x", script)
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint, "/x", "Content-Length: 100000000", method="POST") + b"x" * 100_000)
        response = read(connection)
    assert (response.status, response.body, response.closed) == (413, b"too much", True)
    eventually(lambda: upstream.last.closed_at)


def test_logs_contain_no_keys_or_tokens(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    for data in REFUSED.values():
        upstream.on("/x", raw(data[:2000].replace(b"hello", KEY.encode())))
        exchange(strake.address, get(endpoint), silence=0.05)
    time.sleep(0.7)
    log = strake.log()
    for secret in (KEY, endpoint.token, "hello", "poison"):
        assert secret not in log
    assert "Traceback" not in log
