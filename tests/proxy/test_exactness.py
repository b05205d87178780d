"""Requests and responses arrive as they would without Strake."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import brotli  # type: ignore[import-untyped]  # has no stubs
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.raw import Response, ask, connected, exchange, get, read, read_head
from tests.support.running import KEY, Endpoint, Strake, prepare_home
from tests.support.upstream import Exchange, Upstream, early, fixed, sse

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
_STRIPPED = (
    "x-forwarded-",
    "x-strake-",
    "x-api-key",
    "x-goog-api-key",
    "x-real-ip",
    "x-client-ip",
    "x-original-",
    "x-rewrite-url",
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, list[tuple[str, str]], bytes, int]:
    """Generate a method, target, headers, body and chunk size (0: with a Content-Length, -1: no body)."""
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


def received(exchange: Exchange) -> tuple[object, ...]:
    """Return what the upstream received, without the order of framing headers, which servers add last.

    Without the hop marker too: endpoints of these tests have a destination that their owner chose.
    """
    framing = {b"host", b"authorization", b"transfer-encoding", b"x-strake-hop"}
    others = [(name, value) for name, value in exchange.headers if name.lower() not in framing]
    return (
        exchange.method,
        exchange.target,
        others,
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
    assert received(forwarded) == received(sent)
    if request[0] != "HEAD":
        assert json.loads(through.body)["body_sha256"] == json.loads(direct.body)["body_sha256"]
    assert not upstream.malformed


@pytest.fixture(scope="module")
def shared_endpoint(strake: Strake, _upstream: Upstream) -> Endpoint:
    return strake.connect(_upstream.url)


def _ask(address: tuple[str, int], raw: bytes, method: str) -> Response:
    if method != "HEAD":
        return ask(address, raw)
    with connected(address) as connection:
        connection.sendall(raw)
        return Response(read_head(connection), closed=False)


def test_each_spelling_of_a_name_arrives(strake: Strake, shared_endpoint: Endpoint, upstream: Upstream) -> None:
    lines = ["X-MiXeD: 1", "x-mixed: 2", "X-MIXED: 3", "Connection: X-Gone", "x-gone: 4", "X-Behind: 5"]
    assert ask(strake.address, get(shared_endpoint, "/x", *lines)).status == 200
    assert [name for name, _ in upstream.last.headers] == [
        *(b"Host", b"X-MiXeD", b"x-mixed", b"X-MIXED", b"X-Behind", b"x-strake-hop", b"Authorization")
    ]


@pytest.mark.parametrize("reason", [KEY, f"not {KEY.upper()}", base64.b64encode(KEY.encode()).decode()])
def test_reason_phrase_with_the_key_is_replaced(
    reason: str, strake: Strake, shared_endpoint: Endpoint, upstream: Upstream
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.respond(418, [], b"", reason=reason)

    upstream.on("/x", script)
    assert ask(strake.address, get(shared_endpoint, "/x")).head.startswith(b"HTTP/1.1 418 I'm a Teapot\r\n")


@pytest.mark.parametrize("target", ["/x?", "/x??", "/x?&", "/x?=", "/x?a=%3F&&b", "/x?key=", "/x/?"])
def test_unusual_query_arrives_unchanged(
    target: str, strake: Strake, shared_endpoint: Endpoint, upstream: Upstream
) -> None:
    assert ask(strake.address, get(shared_endpoint, target)).status == 200
    assert upstream.last.target == target.encode()


def test_query_with_only_the_token_is_removed(strake: Strake, shared_endpoint: Endpoint, upstream: Upstream) -> None:
    assert ask(strake.address, get(shared_endpoint, f"/x?key={shared_endpoint.token}")).status == 200
    assert upstream.last.target == b"/x"


# --- Any response ----------------------------------------------------------------------------------------------------

_RESPONSE_HEADERS = st.lists(
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
    reason=_VALUE,
    headers=_RESPONSE_HEADERS,
    body=_BODY,
    pieces=st.sampled_from([0, 1, 10, 1000]),
)
def test_any_response_arrives_as_sent(
    status: int,
    reason: str,
    headers: list[tuple[str, str]],
    body: bytes,
    pieces: int,
    strake: Strake,
    shared_endpoint: Endpoint,
    upstream: Upstream,
) -> None:
    async def chunked(exchange: Exchange) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        line = f"HTTP/1.1 {status} {reason}\r\n{lines}Transfer-Encoding: chunked\r\n\r\n"
        await exchange.write(line.encode("latin-1"))
        for at in range(0, len(body), pieces):
            await exchange.chunk(body[at : at + pieces])
        await exchange.chunk(b"")

    async def whole(exchange: Exchange) -> None:
        await exchange.respond(status, headers, body, reason=reason)

    upstream.on("/x", chunked if pieces else whole)
    with connected(strake.address) as connection:
        connection.sendall(get(shared_endpoint, "/x", "Connection: close"))
        response = read(connection)
    assert response.head.split(b"\r\n")[0] == f"HTTP/1.1 {status} {reason}".encode("latin-1")
    assert (dechunked(response.body) if pieces else response.body) == body
    added = {
        b"x-content-type-options",
        b"content-security-policy",
        b"cross-origin-resource-policy",
        b"transfer-encoding",
        b"connection",
        b"content-length",
    }
    forwarded = [
        (name, value.strip())
        for name, _, value in _lines(response)
        if name.lower() not in added and (name, value[:12]) != (b"server-timing", b" strake;dur=")
    ]
    assert forwarded == [(name.encode(), value.encode("latin-1")) for name, value in headers]


def _lines(response: Response) -> Iterator[tuple[bytes, bytes, bytes]]:
    return (line.partition(b":") for line in response.head.split(b"\r\n")[1:])


def dechunked(body: bytes) -> bytes:
    """Decode a chunked body. Raises if it is incomplete."""
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
def test_compressed_response_passes_unchanged(
    coding: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    upstream.on("/x", fixed(200, [("Content-Encoding", coding), ("Vary", "Accept-Encoding")], ENCODED[coding]))
    response = ask(strake.address, get(endpoint, "/x", "Accept-Encoding: gzip, br, zstd"))
    assert response.body == ENCODED[coding]
    assert response.all("content-encoding") == [coding.encode()]
    assert response.all("content-length") == [str(len(ENCODED[coding])).encode()]
    assert upstream.last.header("accept-encoding") == b"gzip, br, zstd"


@pytest.mark.parametrize("coding", ENCODED)
def test_compressed_request_passes_unchanged(
    coding: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    body = ENCODED[coding]
    raw = get(endpoint, "/x", f"Content-Encoding: {coding}", f"Content-Length: {len(body)}", method="POST") + body
    assert ask(strake.address, raw).status == 200
    assert upstream.last.body == body
    assert upstream.last.header("content-encoding") == coding.encode()


def test_no_header_is_added(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """An Accept-Encoding, User-Agent or Content-Type could change the response."""
    assert ask(strake.address, get(endpoint)).status == 200
    assert [name.lower() for name, _ in upstream.last.headers] == [b"host", b"x-strake-hop", b"authorization"]


def test_nominated_headers_are_not_forwarded(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """RFC 9110 §7.6.1: the Connection header nominates headers that are for one hop."""
    lines = ["Connection: x-hop , keep-alive", "X-Hop: 1", "Connection: X-Other", "X-Other: 2", "X-End: 3"]
    assert ask(strake.address, get(endpoint, "/x", *lines)).status == 200
    assert [name.lower() for name, _ in upstream.last.headers] == [
        *(b"host", b"x-end", b"x-strake-hop", b"authorization")
    ]


def test_random_bodies_pass_both_ways(strake: Strake, shared_endpoint: Endpoint, upstream: Upstream) -> None:
    """The sizes are those of the buffers on the way. Half of the bodies are chunked."""
    generator = random.Random(7)
    sizes = [generator.choice([0, 1, 2, 1000, 16383, 16384, 16385, 65535, 65536, 65537, 200_000]) for _ in range(1000)]

    async def mirror(exchange: Exchange) -> None:
        await exchange.respond(200, [], exchange.body)

    upstream.default = mirror

    async def send_one(number: int) -> None:
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
        response = Response(await reader.read(), closed=True)
        writer.close()
        assert response.status == 200, response.raw[:300]
        assert hashlib.sha256(response.body).digest() == hashlib.sha256(body).digest()

    async def send_all() -> None:
        for start in range(0, 1000, 50):
            await asyncio.gather(*(send_one(number) for number in range(start, start + 50)))

    asyncio.run(send_all())
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
def test_response_without_body_keeps_the_connection(
    status: int, headers: list[tuple[str, str]], method: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)

    async def script(exchange: Exchange) -> None:
        await exchange.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode())

    upstream.on("/x", script)
    with connected(strake.address) as connection:
        for _ in range(2):
            connection.sendall(get(endpoint, "/x", *(["Content-Length: 0"] if method == "POST" else []), method=method))
            response = Response(read_head(connection), closed=False)
            assert response.status == status
            assert not response.all("transfer-encoding")
            for name, value in headers:
                assert response.all(name) == [value.encode()]
    assert len({id(request.connection) for request in upstream.exchanges}) == 1


def test_head_response_keeps_its_content_length(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", fixed(200, [("Content-Type", "a/b")], b"x" * 12345))
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint, method="HEAD"))
        response = Response(read_head(connection), closed=False)
        assert response.all("content-length") == [b"12345"]
        connection.sendall(get(endpoint, "/y"))
        assert read(connection).status == 200


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "LOCK", "M-SEARCH", "PURGE"])
def test_unknown_method_is_refused(method: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """The response to a TRACE would contain the provider key."""
    response = ask(strake.address, get(endpoint, method=method))
    assert (response.status, response.all("x-strake-error")) == (405, [b"method_not_allowed"])
    assert b"POST" in response.all("allow")[0]
    assert not upstream.exchanges


# --- Unusual clients -------------------------------------------------------------------------------------------------


def test_http_1_0_client_gets_no_chunks(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", sse([b"a", b"b", b"c"]))
    response = exchange(strake.address, get(endpoint).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (response.status, response.body, response.closed, response.reset) == (200, b"abc", True, False)
    assert not response.all("transfer-encoding")
    assert response.all("connection") == [b"close"]


def test_continue_is_sent_only_for_a_valid_token(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    raw = get(endpoint, "/x", "Content-Length: 5", "Expect: 100-continue", method="POST")
    with connected(strake.address) as connection:
        connection.sendall(raw)
        assert read_head(connection) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        assert read(connection).status == 200
    assert upstream.last.body == b"hello"
    assert upstream.last.header("expect") is None
    refused = exchange(strake.address, raw.replace(endpoint.token.encode(), b"strk_stale"))
    assert refused.status == 401
    assert refused.count == 1


def test_early_error_reaches_a_sending_client(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    """Closing at once would reset the connection before the client has read the 401."""
    raw = get(endpoint, "/x", "Content-Length: 50000000", method="POST").replace(endpoint.token.encode(), b"strk_stale")
    with connected(strake.address) as connection:
        connection.sendall(raw)
        for _ in range(50):
            connection.sendall(b"x" * 100_000)
        response = read(connection)
    assert (response.status, response.closed, response.reset) == (401, True, False)
    assert response.all("connection") == [b"close"]
    assert not upstream.exchanges


def test_body_above_the_limit_returns_413(run_strake_small: Strake, upstream: Upstream) -> None:
    endpoint = run_strake_small.connect(upstream.url)

    @early
    async def slow(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.respond()

    upstream.on("/x", slow)
    declared = get(endpoint, "/x", "Content-Length: 1048577", method="POST")
    response = exchange(run_strake_small.address, declared)
    assert (response.status, response.all("x-strake-error")) == (413, [b"body_too_large"])
    assert not upstream.exchanges
    counted = get(endpoint, "/x", "Transfer-Encoding: chunked", method="POST")
    pieces = [b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 20
    response = exchange(run_strake_small.address, counted, *pieces, b"0\r\n\r\n")
    assert (response.status, response.all("x-strake-error")) == (413, [b"body_too_large"])
    assert not any(request.body_complete for request in upstream.exchanges)
    exact = get(endpoint, "/x", "Content-Length: 1048576", method="POST") + b"x" * 1048576
    assert ask(run_strake_small.address, exact).status == 200


@pytest.fixture
def run_strake_small(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Strake]:
    with Strake(
        prepare_home(tmp_path_factory.mktemp("small") / "strake", migrated_database), {"STRAKE_MAX_BODY_MB": "1"}
    ) as running:
        yield running


def test_pages_refuse_large_and_chunked_bodies(strake: Strake) -> None:
    """Django writes every request body to a temporary file, even before authentication."""
    host = f"Host: 127.0.0.1:{strake.port}\r\n".encode()
    big = b"POST /sign-in HTTP/1.1\r\n" + host + b"Content-Length: 1048577\r\n\r\n"
    assert exchange(strake.address, big).status == 413
    endless = b"POST /sign-in HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n"
    assert exchange(strake.address, endless).status == 411


def test_half_closed_client_counts_as_disconnected(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    upstream.on("/x", sse([b"a"] * 100, every=0.05))
    with connected(strake.address) as connection:
        connection.sendall(get(endpoint))
        read_head(connection)
        connection.shutdown(socket.SHUT_WR)
        assert read(connection).closed
