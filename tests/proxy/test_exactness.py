"""What goes in comes out: every request and every answer as it would be without Strake between."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import random
import socket
from collections.abc import Iterator

import brotli
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.proxy.raw import Answer, ask, connected, exchange, get, read, read_head
from tests.running import KEY, Endpoint, Strake
from tests.upstream import Exchange, Upstream, early, fixed, sse

# --- Any request, directly and through Strake ------------------------------------------------------------------------

_METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "QUERY"])
_TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+.^`|~-_", min_size=1, max_size=12)
_KNOWN = st.sampled_from(
    ["Accept", "accept-encoding", "Content-Type", "User-Agent", "anthropic-version", "Anthropic-Beta", "OpenAI-Beta",
     "X-Stainless-Lang", "Idempotency-Key", "If-None-Match", "Range", "Origin", "Referer", "Content-Encoding",
     "X-Request-Id", "traceparent", "Accept-Language", "Date", "X-Forward", "Prefer", "x-claude-code-session-id"]
)  # fmt: skip
_VALUE = st.text([chr(code) for code in (9, *range(32, 127), *range(160, 256))], max_size=40).map(str.strip)
_HEADERS = st.lists(st.tuples(st.one_of(_KNOWN, _TOKEN.map("x-".__add__)), _VALUE), max_size=12)
_SEGMENT = st.text("abcXYZ019-_~!$&'()*+,=@:;", min_size=1, max_size=8) | st.sampled_from(
    ["openai%2Fgpt-4o", "%20", "caf%C3%A9", "%E2%82%AC", "a.b", "v1", "%41", "%25", "model:generateContent"]
)
_PATH = st.lists(_SEGMENT, max_size=5).map(lambda segments: "/" + "/".join(segments))
_QUERY = st.text([chr(code) for code in range(33, 127) if chr(code) != "#"], max_size=40)
_BODY = st.binary(max_size=3000)
_STRIPPED = ("x-forwarded-", "x-api-key", "x-goog-api-key", "x-real-ip", "x-client-ip", "x-original-", "x-rewrite-url")


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, list[tuple[str, str]], bytes, int]:
    """Method, target, headers, body and chunk size (0: with a Content-Length, -1: no body at all)."""
    query = draw(_QUERY)
    headers = [
        (name, value)
        for name, value in draw(_HEADERS)
        if not name.lower().replace("_", "-").startswith(_STRIPPED) and value != "100-continue"
    ]
    method = draw(_METHODS)
    framing = draw(st.sampled_from([-1, 0, 1, 7, 100, 3000]))
    body = draw(_BODY) if framing >= 0 else b""
    return method, draw(_PATH) + draw(st.sampled_from(["", f"?{query}"])), headers, body, framing


def render(prefix: str, request: tuple[str, str, list[tuple[str, str]], bytes, int], authorization: str) -> bytes:
    method, target, headers, body, framing = request
    lines = [f"{method} {prefix}{target} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers)]
    if framing == 0:
        lines.append(f"Content-Length: {len(body)}")
    elif framing > 0:
        lines.append("Transfer-Encoding: chunked")
        pieces = [body[at : at + framing] for at in range(0, len(body), framing)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    lines += [f"Authorization: {authorization}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def arrived(exchange: Exchange) -> tuple[object, ...]:
    """What the upstream saw, less the order of framing headers, which end up last when a server adds them."""
    framing = {b"host", b"authorization", b"transfer-encoding"}
    kept = [(name.lower(), value) for name, value in exchange.headers if name.lower() not in framing]
    return (
        exchange.method,
        exchange.target,
        kept,
        exchange.all("transfer-encoding"),
        exchange.all("authorization"),
        exchange.body,
    )


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests())
def test_any_request_arrives_as_if_sent_directly(
    request: tuple[str, str, list[tuple[str, str]], bytes, int],
    strake: Strake,
    shared_endpoint: Endpoint,
    upstream: Upstream,
) -> None:
    bearer = f"Bearer {KEY}"
    direct = _ask(("127.0.0.1", upstream.port), render("", request, bearer), request[0])
    through = _ask(strake.address, render(shared_endpoint.path, request, f"Bearer {shared_endpoint.token}"), request[0])
    assert through.status == direct.status == 200
    sent, forwarded = upstream.exchanges[-2:]
    assert arrived(forwarded) == arrived(sent)
    if request[0] != "HEAD":
        assert json.loads(through.body)["body_sha256"] == json.loads(direct.body)["body_sha256"]
    assert not upstream.malformed


@pytest.fixture(scope="module")
def shared_endpoint(strake: Strake, _upstream: Upstream) -> Endpoint:
    return strake.connect(_upstream.url)


def _ask(address: tuple[str, int], raw: bytes, method: str) -> Answer:
    if method != "HEAD":
        return ask(address, raw)
    with connected(address) as connection:
        connection.sendall(raw)
        return Answer(read_head(connection), closed=False)


@pytest.mark.parametrize("target", ["/x?", "/x??", "/x?&", "/x?=", "/x?a=%3F&&b", "/x?key=", "/x/?"])
def test_a_query_that_says_little_arrives_as_it_is(
    target: str, strake: Strake, shared_endpoint: Endpoint, upstream: Upstream
) -> None:
    assert ask(strake.address, get(shared_endpoint, target)).status == 200
    assert upstream.last.target == target.encode()


def test_of_a_query_that_is_but_the_token_nothing_is_left(
    strake: Strake, shared_endpoint: Endpoint, upstream: Upstream
) -> None:
    assert ask(strake.address, get(shared_endpoint, f"/x?key={shared_endpoint.token}")).status == 200
    assert upstream.last.target == b"/x"


# --- Any answer ------------------------------------------------------------------------------------------------------

_ANSWER_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["Content-Type", "retry-after", "X-Should-Retry", "x-ratelimit-remaining-requests", "anthropic-ratelimit-x",
             "x-request-id", "request-id", "OpenAI-Processing-Ms", "Content-Encoding", "ETag", "Vary", "Server", "Date",
             "Cache-Control", "Content-Disposition", "Location", "WWW-Authenticate", "Access-Control-Allow-Origin"]
        ) | _TOKEN.map("x-a".__add__),
        _VALUE,
    ),
    max_size=15,
)  # fmt: skip


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    status=st.sampled_from([200, 201, 202, 206, 299, 400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 529]),
    headers=_ANSWER_HEADERS,
    body=_BODY,
    pieces=st.sampled_from([0, 1, 10, 1000]),
)
def test_any_answer_comes_back_as_sent(
    status: int,
    headers: list[tuple[str, str]],
    body: bytes,
    pieces: int,
    strake: Strake,
    shared_endpoint: Endpoint,
    upstream: Upstream,
) -> None:
    async def chunked(exchange: Exchange) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        await exchange.write(f"HTTP/1.1 {status} X\r\n{lines}Transfer-Encoding: chunked\r\n\r\n".encode("latin-1"))
        for at in range(0, len(body), pieces):
            await exchange.chunk(body[at : at + pieces])
        await exchange.chunk(b"")

    upstream.on("/x", chunked if pieces else fixed(status, headers, body))
    with connected(strake.address) as connection:
        connection.sendall(get(shared_endpoint, "/x", "Connection: close"))
        answer = read(connection, silence=5)
    assert answer.status == status
    assert (dechunked(answer.body) if pieces else answer.body) == body
    own = {
        b"x-content-type-options",
        b"content-security-policy",
        b"transfer-encoding",
        b"connection",
        b"content-length",
    }
    came = [(name.lower(), value.strip()) for name, _, value in _lines(answer) if name.lower() not in own]
    assert came == [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]


def _lines(answer: Answer) -> Iterator[tuple[bytes, bytes, bytes]]:
    return (line.partition(b":") for line in answer.head.split(b"\r\n")[1:])


def dechunked(body: bytes) -> bytes:
    """The data of a chunked body; raises if it is not whole."""
    data = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            assert body == b"\r\n"
            return data
        data += body[:length]
        assert body[length : length + 2] == b"\r\n"
        body = body[length + 2 :]


# --- Bodies as raw bytes ---------------------------------------------------------------------------------------------

TEXT = json.dumps({"text": "compress me " * 500}).encode()
ENCODED = {"gzip": gzip.compress(TEXT), "br": brotli.compress(TEXT), "zstd": zstandard.compress(TEXT), "identity": TEXT}


@pytest.mark.parametrize("coding", ENCODED)
def test_compressed_answer_passes_as_it_is(coding: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", fixed(200, [("Content-Encoding", coding), ("Vary", "Accept-Encoding")], ENCODED[coding]))
    answer = ask(strake.address, get(endpoint, "/x", "Accept-Encoding: gzip, br, zstd"))
    assert answer.body == ENCODED[coding]
    assert answer.all("content-encoding") == [coding.encode()]
    assert answer.all("content-length") == [str(len(ENCODED[coding])).encode()]
    assert upstream.last.header("accept-encoding") == b"gzip, br, zstd"


@pytest.mark.parametrize("coding", ENCODED)
def test_compressed_request_passes_as_it_is(
    coding: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    body = ENCODED[coding]
    raw = get(endpoint, "/x", f"Content-Encoding: {coding}", f"Content-Length: {len(body)}", method="POST") + body
    assert ask(strake.address, raw).status == 200
    assert upstream.last.body == body
    assert upstream.last.header("content-encoding") == coding.encode()


def test_no_header_is_made_up(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """No Accept-Encoding, no User-Agent, no Content-Type: an upstream would answer otherwise than it does directly."""
    assert ask(strake.address, get(endpoint)).status == 200
    assert [name.lower() for name, _ in upstream.last.headers] == [b"host", b"authorization"]


def test_thousand_random_bodies_both_ways(strake: Strake, shared_endpoint: Endpoint, upstream: Upstream) -> None:
    """Sizes around every buffer on the way, with and without a declared length."""
    chance = random.Random(7)
    sizes = [chance.choice([0, 1, 2, 1000, 16383, 16384, 16385, 65535, 65536, 65537, 200_000]) for _ in range(1000)]

    async def mirror(exchange: Exchange) -> None:
        await exchange.answer(200, [], exchange.body)

    upstream.default = mirror

    async def one(number: int) -> None:
        body = random.Random(number).randbytes(sizes[number])
        reader, writer = await asyncio.open_connection(*strake.address)
        if number % 2:
            head = get(shared_endpoint, "/m", "Transfer-Encoding: chunked", "Connection: close", method="POST")
            writer.write(head)
            for at in range(0, len(body), 10_000):
                writer.write(b"%x\r\n%b\r\n" % (len(body[at : at + 10_000]), body[at : at + 10_000]))
            writer.write(b"0\r\n\r\n")
        else:
            writer.write(get(shared_endpoint, "/m", f"Content-Length: {len(body)}", "Connection: close", method="POST"))
            writer.write(body)
        answer = Answer(await reader.read(), closed=True)
        writer.close()
        assert answer.status == 200, answer.raw[:300]
        assert hashlib.sha256(answer.body).digest() == hashlib.sha256(body).digest()

    async def all_of_them() -> None:
        for start in range(0, 1000, 50):
            await asyncio.gather(*(one(number) for number in range(start, start + 50)))

    asyncio.run(all_of_them())
    assert not upstream.malformed


# --- Statuses and methods without a body -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (204, []),
        (304, [("ETag", '"a"')]),
        (304, [("ETag", '"a"'), ("Content-Length", "1234")]),
        (200, [("Content-Length", "0")]),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_answer_without_a_body_leaves_the_connection_usable(
    status: int, headers: list[tuple[str, str]], method: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)

    async def script(exchange: Exchange) -> None:
        await exchange.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode())

    upstream.on("/x", script)
    with connected(strake.address) as connection:
        for _ in range(2):
            connection.sendall(get(endpoint, "/x", *(["Content-Length: 0"] if method == "POST" else []), method=method))
            answer = Answer(read_head(connection), closed=False)
            assert answer.status == status
            assert not answer.all("transfer-encoding")
            for name, value in headers:
                assert answer.all(name) == [value.encode()]
    assert len({id(one.connection) for one in upstream.exchanges}) == 1


def test_head_keeps_the_length_of_what_get_would_send(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", fixed(200, [("Content-Type", "a/b")], b"x" * 12345))
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint, method="HEAD"))
        answer = Answer(read_head(connection), closed=False)
        assert answer.all("content-length") == [b"12345"]
        connection.sendall(get(endpoint, "/y"))
        assert read(connection, silence=0.3).status == 200


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "LOCK", "M-SEARCH", "PURGE"])
def test_method_of_no_api_is_refused(method: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """TRACE above all: its answer repeats the request's headers, the real key among them."""
    answer = ask(strake.address, get(endpoint, method=method))
    assert (answer.status, answer.all("x-strake-error")) == (405, [b"method_not_allowed"])
    assert b"POST" in answer.all("allow")[0]
    assert not upstream.exchanges


# --- Clients of other times ------------------------------------------------------------------------------------------


def test_http_1_0_client_gets_a_body_without_chunks(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", sse([b"a", b"b", b"c"]))
    answer = exchange(strake.address, get(endpoint).replace(b"HTTP/1.1", b"HTTP/1.0"), silence=3)
    assert (answer.status, answer.body, answer.closed, answer.reset) == (200, b"abc", True, False)
    assert not answer.all("transfer-encoding")
    assert answer.all("connection") == [b"close"]


def test_expect_is_answered_only_once_the_token_is_accepted(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    raw = get(endpoint, "/x", "Content-Length: 5", "Expect: 100-continue", method="POST")
    with connected(strake.address) as connection:
        connection.sendall(raw)
        assert read_head(connection) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        assert read(connection, silence=0.3).status == 200
    assert upstream.last.body == b"hello"
    assert upstream.last.header("expect") is None
    refused = exchange(strake.address, raw.replace(endpoint.token.encode(), b"strk_stale"), silence=1)
    assert refused.status == 401
    assert refused.count == 1


def test_early_error_reaches_a_client_that_is_still_sending(
    strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """Closing at once would reset the connection, and the client would never see the 401."""
    raw = get(endpoint, "/x", "Content-Length: 50000000", method="POST").replace(endpoint.token.encode(), b"strk_stale")
    with connected(strake.address) as connection:
        connection.sendall(raw)
        for _ in range(50):
            connection.sendall(b"x" * 100_000)
        answer = read(connection, silence=2)
    assert (answer.status, answer.closed, answer.reset) == (401, True, False)
    assert answer.all("connection") == [b"close"]
    assert not upstream.exchanges


def test_body_over_the_cap_is_a_413(run_strake_small: Strake, upstream: Upstream) -> None:
    endpoint = run_strake_small.connect(upstream.url)

    @early
    async def slow(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.answer()

    upstream.on("/x", slow)
    declared = get(endpoint, "/x", "Content-Length: 1048577", method="POST")
    answer = exchange(run_strake_small.address, declared, silence=1)
    assert (answer.status, answer.all("x-strake-error")) == (413, [b"body_too_large"])
    assert not upstream.exchanges
    counted = get(endpoint, "/x", "Transfer-Encoding: chunked", method="POST")
    pieces = [b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 20
    answer = exchange(run_strake_small.address, counted, *pieces, b"0\r\n\r\n", silence=2)
    assert (answer.status, answer.all("x-strake-error")) == (413, [b"body_too_large"])
    assert not any(one.body_complete for one in upstream.exchanges)
    exact = get(endpoint, "/x", "Content-Length: 1048576", method="POST") + b"x" * 1048576
    assert ask(run_strake_small.address, exact).status == 200


@pytest.fixture
def run_strake_small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strake]:
    with Strake(tmp_path_factory.mktemp("small") / "strake", {"STRAKE_MAX_BODY_MB": "1"}) as running:
        yield running


def test_pages_take_no_body_that_would_reach_the_disk(strake: Strake) -> None:
    """Django writes bodies to a temporary file before it looks at them, for anybody who asks."""
    host = f"Host: 127.0.0.1:{strake.port}\r\n".encode()
    big = b"POST /sign-in HTTP/1.1\r\n" + host + b"Content-Length: 1048577\r\n\r\n"
    assert exchange(strake.address, big, silence=1).status == 413
    endless = b"POST /sign-in HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n"
    assert exchange(strake.address, endless, silence=1).status == 411


def test_client_that_closes_its_sending_half_is_gone(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", sse([b"a"] * 100, every=0.05))
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint))
        read_head(connection)
        connection.shutdown(socket.SHUT_WR)
        assert read(connection, silence=2).closed
