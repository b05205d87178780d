"""WebSocket: frames pass unchanged, and handshakes are treated like any request."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast
from unittest.mock import AsyncMock

import openai
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from accounts import tokens
from credentials.models import BEARER_TOKEN_PREFIX
from proxy import websocket
from proxy.errors import UpstreamIdle, UpstreamInvalid
from proxy.http.names import Headers
from proxy.http.request import ProxyRequest
from proxy.upstream import tunnel
from proxy.upstream.origin import Origin
from proxy.upstream.pool import ConnectionPool
from proxy.upstream.renewals import Renewals
from proxy.views import UpstreamTarget
from tests.support import exchanges, routes
from tests.support.raw import exchange, get
from tests.support.running import KEY, Endpoint, Strake, prepare_home
from tests.support.upstream import Exchange, Upstream, early, eventually, fixed, raw, silence, stop_reading, until

Handler = Callable[[ServerConnection], Awaitable[None]]


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


class WebSocketUpstream:
    """A WebSocket provider in a thread. Records handshakes and how connections closed."""

    def __init__(self) -> None:
        self.handler: Handler = echo
        self.refusal: Response | None = None
        self.handshakes: list[Request] = []
        self.closed: list[tuple[int | None, str | None]] = []
        self.received: list[str | bytes] = []
        self.options: dict[str, Any] = {}
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(60)
        self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()

        async def handle(connection: ServerConnection) -> None:
            try:
                await self.handler(connection)
            except ConnectionClosed:
                pass
            finally:
                await connection.wait_closed()
                self.closed.append((connection.close_code, connection.close_reason))

        def record(connection: ServerConnection, request: Request) -> Response | None:
            self.handshakes.append(request)
            return self.refusal

        def select(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
            return offered[0] if offered else None

        async with serve(
            handle, "127.0.0.1", 0, process_request=record, select_subprotocol=select, max_size=None, ping_interval=None
        ) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self._ready.set()
            await self._stopping.wait()
            server.close(close_connections=True)


@pytest.fixture
def upstream() -> Iterator[WebSocketUpstream]:
    with WebSocketUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def strake(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Strake]:
    with Strake(
        prepare_home(tmp_path_factory.mktemp("strake") / "home", migrated_database), {"STRAKE_MAX_STREAMS": "20"}
    ) as strake:
        yield strake


@pytest.fixture
def endpoint(strake: Strake, upstream: WebSocketUpstream) -> Endpoint:
    return strake.connect(upstream.url)


def websocket_url(endpoint: Endpoint, path: str = "/v1/realtime?model=gpt-realtime") -> str:
    return endpoint.url.replace("http://", "ws://") + path


@asynccontextmanager
async def connected(endpoint: Endpoint, path: str = "/v1/realtime", **options: Any) -> AsyncIterator[ClientConnection]:
    options = {"additional_headers": endpoint.bearer, "ping_interval": None, "max_size": None, **options}
    async with connect(websocket_url(endpoint, path), proxy=None, **options) as connection:
        yield connection


def handshake(endpoint: Endpoint, method: str = "GET", *headers: str) -> bytes:
    """Return a handshake as bytes."""
    return get(
        endpoint,
        "/v1/realtime",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
        method=method,
    )


async def refused(endpoint: Endpoint, **options: Any) -> Response:
    """Open a connection that must be refused, and return the response."""
    with pytest.raises(InvalidStatus) as error:
        async with connected(endpoint, **options):
            pass
    return error.value.response


# --- Frames --------------------------------------------------------------------------------------------------------


async def test_text_and_binary_pass_both_ways_unchanged(endpoint: Endpoint) -> None:
    messages: list[str | bytes] = ["", "hello", "ünïcode ✓", b"", bytes(range(256)), "x" * 200_000, b"\x00" * 3_000_000]
    async with connected(endpoint) as connection:
        for message in messages:
            await connection.send(message)
            assert await connection.recv() == message


async def test_compression_is_between_client_and_provider(endpoint: Endpoint, upstream: WebSocketUpstream) -> None:
    async with connected(endpoint, compression="deflate") as connection:
        assert connection.response is not None
        assert "permessage-deflate" in connection.response.headers["Sec-WebSocket-Extensions"]
        await connection.send("z" * 100_000)
        assert await connection.recv() == "z" * 100_000
    async with connected(endpoint, compression=None) as connection:
        assert connection.response is not None
        assert "Sec-WebSocket-Extensions" not in connection.response.headers
        await connection.send("z" * 100_000)
        assert await connection.recv() == "z" * 100_000


async def test_fragments_arrive_one_by_one(endpoint: Endpoint, upstream: WebSocketUpstream) -> None:
    """The provider sends each fragment only after the client has received the one before."""
    arrived: list[str] = []

    async def pieces(connection: ServerConnection) -> None:
        async def some() -> AsyncIterator[str]:
            for number, piece in enumerate(("one ", "two ", "three")):
                await until(lambda wanted=number: len(arrived) >= wanted)  # type: ignore[misc]
                yield piece

        await connection.send(some())

    upstream.handler = pieces
    async with connected(endpoint) as connection:
        async for piece in connection.recv_streaming(decode=True):
            arrived.append(piece)  # noqa: PERF401  (the provider waits for it)
    assert "".join(arrived) == "one two three"


async def test_client_pings_reach_the_provider(endpoint: Endpoint, upstream: WebSocketUpstream) -> None:
    pings: list[bytes] = []

    async def watch(connection: ServerConnection) -> None:
        process = connection.protocol.recv_frame

        def record(frame: Frame) -> None:
            if frame.opcode is Opcode.PING:
                pings.append(bytes(frame.data))
            process(frame)

        connection.protocol.recv_frame = record  # type: ignore[method-assign]
        await connection.send("watching")
        await echo(connection)

    upstream.handler = watch
    async with connected(endpoint) as connection:
        await connection.recv()
        pong = await connection.ping(b"payload")
        await pong
    assert pings == [b"payload"]


async def test_provider_pings_reach_the_client(endpoint: Endpoint, upstream: WebSocketUpstream) -> None:
    latencies: list[float] = []

    async def ping(connection: ServerConnection) -> None:
        latencies.append(await (await connection.ping(b"payload")))
        await connection.send("done")

    upstream.handler = ping
    async with connected(endpoint) as connection:
        assert await connection.recv() == "done"
    assert len(latencies) == 1


# --- Closing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going"), (4321, "ünser Grund"), (1011, "x" * 100)])
async def test_provider_close_code_reaches_the_client(
    endpoint: Endpoint, upstream: WebSocketUpstream, code: int, reason: str
) -> None:
    async def close(connection: ServerConnection) -> None:
        await connection.close(code, reason)

    upstream.handler = close
    async with connected(endpoint) as connection:
        await connection.wait_closed()
        assert (connection.close_code, connection.close_reason) == (code, reason)


async def test_client_close_code_reaches_the_provider(endpoint: Endpoint, upstream: WebSocketUpstream) -> None:
    async with connected(endpoint) as connection:
        await connection.close(4002, "enough")
        assert (connection.close_code, connection.close_reason) == (4002, "enough")
    await until(lambda: upstream.closed)
    assert upstream.closed[0] == (4002, "enough")


async def test_client_abort_closes_the_provider(endpoint: Endpoint, upstream: WebSocketUpstream) -> None:
    async with connected(endpoint) as connection:
        await connection.send("hello")
        await connection.recv()
        connection.transport.abort()
        await until(lambda: upstream.closed)
    assert upstream.closed[0][0] == 1006


async def test_paused_client_abort_closes_the_provider(strake: Strake) -> None:
    """The provider stops reading, so reading from the client is paused when the client disconnects."""
    with Upstream() as upstream:
        upstream.default = early(_accept_and_read_nothing)
        endpoint = strake.connect(upstream.url)
        reader, writer = await asyncio.open_connection(*strake.address)
        writer.write(handshake(endpoint))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        with pytest.raises(TimeoutError):
            await _write_until_paused(writer)
        await asyncio.to_thread(_reset, writer)
        await until(lambda: upstream.last.closed_at)


async def _write_until_paused(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 100_000)
        async with asyncio.timeout(0.5):
            await writer.drain()


async def _accept_and_read_nothing(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    await stop_reading(exchange)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_disconnect_in_handshake_closes_the_provider(strake: Strake) -> None:
    """Including a client that has sent frames before the response."""
    with Upstream() as upstream:
        upstream.default = silence
        endpoint = strake.connect(upstream.url)
        for early_frame in (b"", b"\x81\x80abcd"):
            _, writer = await asyncio.open_connection(*strake.address)
            writer.write(handshake(endpoint))
            await asyncio.sleep(0.3)
            writer.write(early_frame)
            await asyncio.sleep(0.2)
            assert upstream.last.closed_at is None
            writer.close()
            await until(lambda: upstream.last.closed_at, websocket.HANDSHAKE_SECONDS - 5)


async def test_provider_abort_closes_the_client(endpoint: Endpoint, upstream: WebSocketUpstream) -> None:
    async def vanish(connection: ServerConnection) -> None:
        await connection.send("last words " * 50_000)
        connection.transport.close()

    upstream.handler = vanish
    async with connected(endpoint) as connection:
        assert await connection.recv() == "last words " * 50_000
        async with asyncio.timeout(tunnel.LINGER_FOR_CLIENT - 5):
            await connection.wait_closed()
        assert connection.close_code == 1006


async def test_slow_reader_slows_the_sender(strake: Strake, endpoint: Endpoint, upstream: WebSocketUpstream) -> None:
    """Strake buffers little: the provider can only send what the sockets hold."""
    sent = []

    async def flood(connection: ServerConnection) -> None:
        for _ in range(2000):
            await connection.send(b"x" * 65536)
            sent.append(65536)

    upstream.handler = flood
    reader, writer = await asyncio.open_connection(*strake.address)
    writer.write(handshake(endpoint))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    before = resident_kilobytes(strake)
    held = -1
    while sum(sent) != held:  # until everything between is full
        held = sum(sent)
        await asyncio.sleep(1)
    assert held < 2000 * 65536 / 2
    assert resident_kilobytes(strake) - before < 2048
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    received = 0
    while received < 2000 * 65536:
        received += len(await reader.read(1 << 20))
    writer.close()


def resident_kilobytes(strake: Strake) -> int:
    total = 0
    for pid in strake.workers:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        total += int(status.partition("VmRSS:")[2].split()[0])
    return total


# --- Handshakes ----------------------------------------------------------------------------------------------------


async def test_key_replaces_the_token(endpoint: Endpoint, upstream: WebSocketUpstream) -> None:
    headers = {**endpoint.bearer, "OpenAI-Beta": "realtime=v1", "Cookie": "a=b", "X-Forwarded-For": "192.0.2.1"}
    async with connected(endpoint, "/v1/realtime?model=a%2Fb&x=1", additional_headers=headers):
        pass
    [handshake] = upstream.handshakes
    assert handshake.path == "/v1/realtime?model=a%2Fb&x=1"
    assert handshake.headers.get_all("Authorization") == [f"Bearer {KEY}"]
    assert handshake.headers["OpenAI-Beta"] == "realtime=v1"
    assert handshake.headers["Host"] == upstream.url.removeprefix("http://")
    assert endpoint.token not in str(handshake.headers)
    assert not {"cookie", "x-forwarded-for"} & {name.lower() for name in handshake.headers}


@pytest.mark.parametrize("others", [[], ["realtime"], ["realtime", "openai-beta.realtime-v1"]])
async def test_token_is_removed_from_the_subprotocols(
    endpoint: Endpoint, upstream: WebSocketUpstream, others: list[str]
) -> None:
    offered = [*others[:1], f"openai-insecure-api-key.{endpoint.token}", *others[1:]]
    async with connected(endpoint, additional_headers=None, subprotocols=offered) as connection:
        await connection.send("hello")
        assert await connection.recv() == "hello"
        assert connection.subprotocol == (others[0] if others else None)
    [handshake] = upstream.handshakes
    assert handshake.headers["Authorization"] == f"Bearer {KEY}"
    assert handshake.headers.get("Sec-WebSocket-Protocol") == (", ".join(others) or None)
    assert endpoint.token not in str(handshake.headers)


async def test_token_is_removed_from_the_query(endpoint: Endpoint, upstream: WebSocketUpstream) -> None:
    async with connected(endpoint, f"/v1/live?key={endpoint.token}&alt=ws", additional_headers=None):
        pass
    assert upstream.handshakes[0].path == "/v1/live?alt=ws"


async def test_revoked_token_is_refused(strake: Strake, endpoint: Endpoint, upstream: WebSocketUpstream) -> None:
    strake.revoke(endpoint)
    response = await refused(endpoint)
    assert (response.status_code, response.headers["x-strake-error"]) == (401, "invalid_token")
    assert json.loads(response.body)["error"]["code"] == "invalid_token"
    assert upstream.handshakes == []


async def test_handshake_refusals_match_http(strake: Strake, endpoint: Endpoint) -> None:
    stranger = tokens.mint(BEARER_TOKEN_PREFIX)
    limited = strake.issue(endpoint, allowed_paths=["POST /v1/**"])
    elsewhere = strake.issue(endpoint, allowed_networks=["192.0.2.0/24"])
    for bearer, status, code in [
        (None, 401, "missing_token"),
        ({"Authorization": f"Bearer {stranger}"}, 401, "invalid_token"),
        (limited.bearer, 403, "path_not_allowed"),
        (elsewhere.bearer, 403, "network_not_allowed"),
    ]:
        response = await refused(endpoint, additional_headers=bearer)
        assert (response.status_code, response.headers["x-strake-error"]) == (status, code)
    nowhere = Endpoint(f"{strake.url}/p/abcdefghijkl", "abcdefghijkl", endpoint.token, "")
    assert (await refused(nowhere)).headers["x-strake-error"] == "unknown_endpoint"
    response = await refused(endpoint, path="/v1/../realtime")
    assert response.headers["x-strake-error"] == "bad_path"


@pytest.mark.parametrize(("method", "lines"), [("POST", []), ("HEAD", []), ("GET", ["Content-Length: 5"])])
async def test_invalid_handshake_is_an_ordinary_request(strake: Strake, method: str, lines: list[str]) -> None:
    """Otherwise a token that may only POST could open a connection."""
    with Upstream() as plain:
        endpoint = strake.issue(strake.connect(plain.url), allowed_paths=[f"{method} /v1/**"])
        request = handshake(endpoint, method, *lines)
        response = await asyncio.to_thread(exchange, strake.address, request + (b"hello" if lines else b""))
        assert response.status == 200
        assert plain.last.method == method
        assert plain.last.header("upgrade") is None
        assert plain.last.body == (b"hello" if lines else b"")
        post_only = strake.issue(endpoint, allowed_paths=["POST /v1/**"])
        assert (await refused(post_only)).status_code == 403
        assert len(plain.exchanges) == 1


async def test_frames_sent_with_the_handshake_arrive(strake: Strake, endpoint: Endpoint) -> None:
    """Clients usually wait for the response, but frames sent early must not be lost."""
    frame = b"\x81\x82\x00\x00\x00\x00hi"
    for pieces in ([handshake(endpoint) + frame], [handshake(endpoint), frame]):
        response = await asyncio.to_thread(exchange, strake.address, *pieces)
        assert response.status == 101
        assert response.body == b"\x81\x02hi"


async def test_handshakes_count_as_requests(strake: Strake, endpoint: Endpoint) -> None:
    limited = strake.issue(endpoint, requests_per_minute=2)
    for _ in range(2):
        async with connected(limited):
            pass
    response = await refused(limited)
    assert (response.status_code, response.headers["x-strake-error"]) == (429, "rate_limited")
    assert 0 < int(response.headers["retry-after"]) <= 60


async def test_open_connections_count_as_in_flight(endpoint: Endpoint) -> None:
    async with asyncio.timeout(100):
        opened = [await connect(websocket_url(endpoint), additional_headers=endpoint.bearer) for _ in range(20)]
        response = await refused(endpoint)
        assert (response.status_code, response.headers["x-strake-error"]) == (429, "too_many_at_once")
        for connection in opened:
            await connection.close()
        while True:
            try:
                async with connected(endpoint) as connection:
                    await connection.send("room again")
                    assert await connection.recv() == "room again"
                    return
            except InvalidStatus:  # Strake has not yet seen that they closed
                await asyncio.sleep(0.05)


async def test_open_connections_count_for_the_endpoint_limit(strake: Strake, endpoint: Endpoint) -> None:
    strake.call("limit", subdomain=endpoint.subdomain, max_streams=1)
    async with connected(endpoint) as connection:
        response = await refused(endpoint)
        assert (response.status_code, response.headers["x-strake-error"]) == (429, "too_many_at_once")
        assert response.headers["retry-after"] == "1"
        strake.call("limit", subdomain=endpoint.subdomain, max_streams=2)
        async with connected(endpoint):
            await connection.send("still here")
            assert await connection.recv() == "still here"


# --- Providers that refuse -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 404, 405, 501])
async def test_provider_without_websocket_returns_426(strake: Strake, status: int) -> None:
    with Upstream() as plain:
        plain.default = fixed(status, [("Content-Type", "text/html")], b"<h1>HTTP only</h1>")
        endpoint = strake.connect(plain.url)
        started = time.monotonic()
        response = await refused(endpoint, path="/v1/responses")
        assert time.monotonic() - started < websocket.HANDSHAKE_SECONDS - 5
    assert (response.status_code, response.headers["x-strake-error"]) == (426, "websocket_unsupported")


@pytest.mark.parametrize("status", [400, 401, 403, 426, 429, 500, 503])
async def test_other_provider_refusals_pass_unchanged(strake: Strake, status: int) -> None:
    body = b'{"error": {"message": "model does not exist", "code": "model_not_found"}}'
    with Upstream() as plain:
        plain.default = fixed(status, [("Content-Type", "application/json"), ("Retry-After", "7")], body)
        response = await refused(strake.connect(plain.url))
    assert (response.status_code, bytes(response.body)) == (status, body)
    assert response.headers["Retry-After"] == "7"
    assert "x-strake-error" not in response.headers


async def test_unreachable_provider_returns_502(strake: Strake) -> None:
    with Upstream() as stopped:
        url = stopped.url
    response = await refused(strake.connect(url))
    assert (response.status_code, response.headers["x-strake-error"]) == (502, "upstream_refused")


@pytest.mark.parametrize(
    "response_head",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        b"not http at all\r\n\r\n",
    ],
)
async def test_invalid_upgrade_response_returns_502(strake: Strake, response_head: bytes) -> None:
    with Upstream() as odd:
        odd.default = raw(response_head, then="hang")
        response = await refused(strake.connect(odd.url))
    assert (response.status_code, response.headers["x-strake-error"]) == (502, "upstream_invalid")


class Client:
    """A client's connection that records the response to its handshake."""

    def __init__(self) -> None:
        self.responses: list[tuple[int, bytes]] = []

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        self.responses.append((status, body))


async def forward_handshake(upstream: Upstream, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward a handshake without the rest of Strake, so that a test can shorten its limits."""
    key = bytearray(KEY.encode())
    origin = Origin("http", "127.0.0.1", upstream.port)
    route = routes.route(provider="custom", destination_url=upstream.url)
    target = UpstreamTarget(
        *(origin, b"127.0.0.1", b"/v1/realtime", (b"authorization", key.copy()), key), route=route, hops=[]
    )
    monkeypatch.setattr(websocket, "resolve_target", lambda *_: target)
    monkeypatch.setattr(websocket, "authorize", AsyncMock(return_value=(route, None)))
    request = ProxyRequest(exchanges.exchange_of(exchanges.get(b"/p/abcdefghijkl/x")))
    pool = ConnectionPool()
    shared: Any = SimpleNamespace(pool=pool, renewals=Renewals(pool))
    try:
        await websocket.forward(request, cast(Any, client), shared, opened=lambda: None)
    finally:
        pool.close()


@pytest.fixture
def local(settings: Any) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.1/32"]


@pytest.mark.usefixtures("local")
async def test_unanswered_handshake_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE_SECONDS", 0.3)
    with Upstream() as silent:
        silent.default = silence
        async with asyncio.timeout(60):
            with pytest.raises(UpstreamIdle):
                await forward_handshake(silent, Client(), monkeypatch)
        await until(lambda: silent.last.closed_at)


@pytest.mark.usefixtures("local")
async def test_refusal_above_the_limit_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "MAX_REFUSAL_BYTES", 100_000)
    client = Client()
    with Upstream() as plain:
        plain.default = fixed(400, [], b"x" * 100_000)
        await forward_handshake(plain, client, monkeypatch)
        assert client.responses == [(400, b"x" * 100_000)]
        plain.default = fixed(400, [], b"x" * 100_001)
        with pytest.raises(UpstreamInvalid):
            await forward_handshake(plain, client, monkeypatch)
    assert len(client.responses) == 1


# --- Request log and shutdown --------------------------------------------------------------------------------------


async def test_connection_is_recorded_at_both_ends(strake: Strake, endpoint: Endpoint) -> None:
    started = time.monotonic()
    async with connected(endpoint) as connection:
        await connection.send("hello")
        await connection.recv()
        [opened] = await records(strake, endpoint)
        lasted = time.monotonic() - started
        await asyncio.sleep(0.3)
    both = await records(strake, endpoint, 2)
    assert both[0] == opened
    closed = both[1]
    assert (opened["status"], opened["phase"], opened["error"]) == (101, "opened", "")
    assert opened["latency_ms"] <= lasted * 1000
    assert (closed["status"], closed["phase"], closed["error"]) == (101, "closed", "")
    assert closed["latency_ms"] >= lasted * 1000


async def test_refused_handshake_is_one_record(strake: Strake, upstream: WebSocketUpstream) -> None:
    with Upstream() as silent:
        endpoint = strake.connect(silent.url)
        silent.default = fixed(200, [], b"")
        with pytest.raises(InvalidStatus):
            async with connected(endpoint):
                pass
    [record] = await records(strake, endpoint)
    assert (record["status"], record["phase"], record["error"]) == (426, "", "websocket_unsupported")


async def records(strake: Strake, endpoint: Endpoint, count: int = 1) -> list[dict[str, Any]]:
    """Wait until requests to the endpoint have been recorded, and return their records."""

    def find() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = strake.call("records", subdomain=endpoint.subdomain)["records"]
        return found if len(found) >= count else []

    return cast("list[dict[str, Any]]", await asyncio.to_thread(eventually, find))


async def test_disconnect_during_handshake_is_a_499(strake: Strake) -> None:
    logged = len(strake.log())
    with Upstream() as upstream:
        upstream.default = silence
        endpoint = strake.connect(upstream.url)
        _, writer = await asyncio.open_connection(*strake.address)
        writer.write(handshake(endpoint))
        await until(lambda: upstream.exchanges)
        writer.close()
        [record] = await records(strake, endpoint)
    assert record["status"] == 499
    assert strake.log()[logged:] == ""


async def test_stop_ends_quiet_connections_first(migrated_home: Path, upstream: WebSocketUpstream) -> None:
    finished: list[str] = []

    async def work(connection: ServerConnection) -> None:
        async for message in connection:
            for number in range(int(message)):
                await connection.send(str(number))
                await asyncio.sleep(0.5)
            finished.append(str(message))
            await connection.send("finished")

    upstream.handler = work
    with Strake(migrated_home) as strake:
        endpoint = strake.connect(upstream.url)
        async with connected(endpoint) as quiet, connected(endpoint) as busy:
            await busy.send("20")
            stopping = asyncio.create_task(asyncio.to_thread(strake.stop))
            await quiet.wait_closed()
            assert not finished
            messages = [message async for message in busy_until_closed(busy)]
            assert messages[-1] == "finished"
            await stopping


async def busy_until_closed(connection: ClientConnection) -> AsyncIterator[str | bytes]:
    try:
        while True:
            yield await connection.recv()
    except ConnectionClosed:
        return


# --- OpenAI's own SDK ----------------------------------------------------------------------------------------------


async def realtime(connection: ServerConnection) -> None:
    """The events of one turn of a Realtime session: https://platform.openai.com/docs/guides/realtime."""
    await connection.send(json.dumps({"type": "session.created", "event_id": "e1", "session": {"type": "realtime"}}))
    async for message in connection:
        event = json.loads(message)
        if event["type"] == "response.create":
            for number, delta in enumerate(["Hello", " there"]):
                await connection.send(
                    json.dumps(
                        {
                            "type": "response.output_text.delta",
                            "event_id": f"d{number}",
                            "response_id": "r1",
                            "item_id": "i1",
                            "output_index": 0,
                            "content_index": 0,
                            "delta": delta,
                        }
                    )
                )
            await connection.send(
                json.dumps({"type": "response.done", "event_id": "e2", "response": {"id": "r1", "status": "completed"}})
            )


async def test_openai_sdk_holds_a_realtime_session(endpoint: Endpoint, upstream: WebSocketUpstream) -> None:
    upstream.handler = realtime
    client = openai.AsyncOpenAI(api_key=endpoint.token, base_url=f"{endpoint.url}/v1")
    async with client, client.realtime.connect(model="gpt-realtime") as connection:
        event = await connection.recv()
        assert event.type == "session.created"
        await connection.response.create()
        text = ""
        async for event in connection:
            if event.type == "response.output_text.delta":
                text += event.delta
            if event.type == "response.done":
                break
    assert text == "Hello there"
    assert upstream.handshakes[0].path == "/v1/realtime?model=gpt-realtime"
    assert upstream.handshakes[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_openai_sdk_uses_responses_over_websocket(endpoint: Endpoint, upstream: WebSocketUpstream) -> None:
    async def responses(connection: ServerConnection) -> None:
        async for message in connection:
            upstream.received.append(message)
            await connection.send(
                json.dumps({"type": "response.output_text.delta", "delta": "Hi", "sequence_number": 1, "item_id": "i"})
            )

    upstream.handler = responses
    client = openai.AsyncOpenAI(api_key=endpoint.token, base_url=f"{endpoint.url}/v1")
    async with client, client.responses.connect() as connection:
        await connection.response.create(model="gpt-5", input="Hello")
        event = await connection.recv()
        assert event.type == "response.output_text.delta"
        assert event.delta == "Hi"
    assert json.loads(upstream.received[0])["type"] == "response.create"
    assert upstream.handshakes[0].path.startswith("/v1/responses")
