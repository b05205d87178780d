"""The relay: pages reach the web processes over a Unix socket, and their responses reach clients, byte for byte."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from credentials.api import errors as api_errors
from proxy import relay as module
from proxy.relay import Relay
from tests.support import raw
from tests.support.raw import PATIENCE, Response, ask, connected, exchange, read, read_head
from tests.support.serving import serving
from tests.support.upstream import Exchange, Upstream, download, endless, eventually, head, silence
from tests.support.upstream import raw as raw_script

Address = tuple[str, int]


class Front:
    """A relay behind Strake's HTTP protocol."""

    def __init__(self, relay: Relay, address: Address) -> None:
        self.relay = relay
        self.address = address

    @property
    def pages(self) -> int:
        """The number of pages that it relays at the moment."""
        return self.relay._pages._total


@pytest.fixture
def web_socket(tmp_path: Path) -> Path:
    return tmp_path / "web.sock"


@contextlib.contextmanager
def serving_relay(relay: Relay, listening: socket.socket) -> Iterator[None]:
    async def close() -> None:
        relay.close()

    with serving(relay.handle, listening, shutdown=close):
        yield


@contextlib.contextmanager
def front_of(web_socket: Path) -> Iterator[Front]:
    relay = Relay(web_socket)
    listening = socket.create_server(("127.0.0.1", 0))
    with serving_relay(relay, listening):
        yield Front(relay, listening.getsockname())


@pytest.fixture
def front(web_socket: Path) -> Iterator[Front]:
    with front_of(web_socket) as running:
        yield running


@pytest.fixture
def web(web_socket: Path) -> Iterator[Upstream]:
    """A scripted web process. It records requests exactly as received."""
    with Upstream(socket_path=web_socket) as running:
        yield running


class Gunicorn:
    """gunicorn with threads and its default timeouts, serving tests/support/pages_application.py."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = (
            "--worker-class gthread --threads 4 --graceful-timeout 5 --log-level warning --no-control-socket "
            f"--bind unix:{self._path}"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options.split(), "tests.support.pages_application:application"],
            cwd=django_settings.ROOT,
            stderr=subprocess.DEVNULL,  # errors of pages
            start_new_session=True,
        )
        eventually(self._accepts)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Signal the master and its workers, and wait until none of them accepts connections any more."""
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, number)
            process.wait(60)
            eventually(lambda: not self._accepts())

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._path)) == 0


@pytest.fixture
def gunicorn(web_socket: Path) -> Iterator[Gunicorn]:
    """gunicorn behind `front`."""
    running = Gunicorn(web_socket)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def wsgi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A relay in front of a gunicorn that keeps running."""
    path = tmp_path_factory.mktemp("wsgi") / "web.sock"
    gunicorn = Gunicorn(path)
    gunicorn.start()
    with front_of(path) as running:
        yield running
    gunicorn.stop()


def request(target: str = "/x", *lines: str, method: str = "GET", body: bytes = b"") -> bytes:
    """Return a request with these header lines behind its Host."""
    headers = ["Host: strake.example", *lines]
    if body:
        headers.append(f"Content-Length: {len(body)}")
    return (
        f"{method} {target} HTTP/1.1\r\n".encode("latin-1") + "\r\n".join([*headers, "", ""]).encode("latin-1") + body
    )


def seen_by_wsgi(front: Front, *lines: str, method: str = "GET", body: bytes = b"") -> dict[str, Any]:
    """Return the WSGI environment of a request with these header lines."""
    response = ask(front.address, request("/echo", *lines, method=method, body=body))
    assert response.status == 200
    seen: dict[str, Any] = json.loads(response.body)
    return seen


# --- Requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["/a%2Fb/%2e%2E", "//x//y", "/x?", "/?", "/x??a=&a", "/caf%e9/%ff%FE", "/x?q=%zz+%", "/a;b=c?d=/../e"]
)
def test_target_arrives_byte_for_byte(target: str, front: Front, web: Upstream) -> None:
    assert ask(front.address, request(target)).status == 200
    assert web.last.target == target.encode()


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PROPFIND"])
def test_head_arrives_in_order(method: str, front: Front, web: Upstream) -> None:
    lines = ("cookie: a=1; b=2", "accept: text/html", "x-twice: 1", "user-agent: caf\xe9", "x-twice: 2, 3", "x-empty:")
    assert ask(front.address, request("/x", *lines, method=method)).status == 200
    assert web.last.raw_head.decode("latin-1").split("\r\n") == [
        f"{method} /x HTTP/1.1",
        "host: strake.example",
        *lines[:-1],
        "x-empty: ",
        "x-strake-client: 127.0.0.1",
        "connection: keep-alive",
        "",
        "",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "X-Strake-Client: 192.0.2.66",
        "X_Strake_Client: 192.0.2.66",
        "X-Strake_Client: 192.0.2.66",
        "x-strake-internal: 192.0.2.66",
        "X-Forwarded-For: 192.0.2.66",
        "X_Forwarded_For: 192.0.2.66",
        "X-Forwarded-Host: 192.0.2.66",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Ssl: on",
        "X-Forwarded: for=192.0.2.66",
        "Forwarded: for=192.0.2.66;proto=https",
        "X-Real-IP: 192.0.2.66",
        "SCRIPT_NAME: /echo",
        "Content_Length: 66",
        "Remote_Addr: 192.0.2.66",
        "Cookie_: a=1",
        "Connection: x-strake-client",
        "Connection: keep-alive, x-strake-client, host",
        "Keep-Alive: timeout=66",
        "TE: trailers",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABk",
        "Proxy-Authorization: Basic x",
        "Proxy-Connection: keep-alive",
        "Trailer: x",
    ],
)
def test_header_of_a_hop_does_not_reach_wsgi(line: str, wsgi: Front) -> None:
    without, with_line = seen_by_wsgi(wsgi), seen_by_wsgi(wsgi, line)
    assert without == with_line
    assert without["HTTP_X_STRAKE_CLIENT"] == "127.0.0.1"
    assert (without["HTTP_HOST"], without["wsgi.url_scheme"]) == ("strake.example", "http")


def test_nominated_header_does_not_reach_wsgi(wsgi: Front) -> None:
    seen = seen_by_wsgi(wsgi, "Connection: X-Private, x-strake-part", "X-Private: 1", "X-Strake-Part: 1", "X-Kept: 1")
    assert {name for name in seen if name.startswith("HTTP_X")} == {"HTTP_X_KEPT", "HTTP_X_STRAKE_CLIENT"}


def test_headers_of_our_scripts_pass(wsgi: Front) -> None:
    """Every X-Strake-* header that the scripts of pages send."""
    scripts = (django_settings.ROOT / "strake/static/strake/js").glob("*.js")
    names = {name for script in scripts for name in re.findall(r'"(X-Strake-[\w-]+)"', script.read_text())}
    assert names
    seen = seen_by_wsgi(wsgi, *(f"{name}: 1" for name in names))
    assert all(seen[f"HTTP_{name.upper().replace('-', '_')}"] == "1" for name in names)


def test_client_behind_trusted_proxies_is_named(wsgi: Front, settings: Any) -> None:
    settings.STRAKE_TRUSTED_PROXIES = 1
    seen = seen_by_wsgi(wsgi, "X-Forwarded-For: 192.0.2.66", "X-Forwarded-For: 2001:db8::7", "X-Strake-Client: 1.1.1.1")
    assert seen["HTTP_X_STRAKE_CLIENT"] == "2001:db8::7"
    assert "HTTP_X_STRAKE_CLIENT" not in seen_by_wsgi(wsgi, "X-Forwarded-For: unknown")


def test_client_on_a_unix_socket_has_no_address(web_socket: Path, web: Upstream, tmp_path: Path) -> None:
    path = str(tmp_path / "front.sock")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    with serving_relay(Relay(web_socket), listening), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(request("/x", "X-Strake-Client: 192.0.2.66"))
        assert read_head(client).startswith(b"HTTP/1.1 200 ")
    assert web.last.all("x-strake-client") == []


def test_old_client_without_host_gets_a_response(wsgi: Front) -> None:
    response = exchange(wsgi.address, b"GET /echo HTTP/1.0\r\n\r\n")
    assert (response.status, response.closed) == (200, True)


# --- Request bodies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 65_536, 1024 * 1024])
def test_body_arrives_whole(size: int, front: Front, web: Upstream) -> None:
    body = os.urandom(size)
    assert ask(front.address, request(method="POST", body=body)).status == 200
    assert web.last.body == body


def test_body_is_read_before_the_web_process_is_asked(front: Front, web: Upstream) -> None:
    raw_request = request(method="POST", body=b"0123456789")
    with connected(front.address) as client:
        client.sendall(raw_request[:-5])
        eventually(lambda: front.pages)
        time.sleep(0.3)
        assert not web.connections
        client.sendall(raw_request[-5:])
        assert read_head(client).startswith(b"HTTP/1.1 200 ")
    assert web.last.body == b"0123456789"


def test_page_that_ignores_its_body_answers(wsgi: Front) -> None:
    for _ in range(3):
        response = ask(wsgi.address, request("/ignore-body", method="POST", body=bytes(1024 * 1024)))
        assert (response.status, response.body) == (400, b"ignored")


def test_expectation_is_met_here(front: Front, web: Upstream) -> None:
    raw_request = request("/x", "Expect: 100-continue", method="POST", body=b"body")
    with connected(front.address) as client:
        client.sendall(raw_request[:-4])
        assert read_head(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(raw_request[-4:])
        assert read_head(client).startswith(b"HTTP/1.1 200 ")
    assert (web.last.body, web.last.all("expect")) == (b"body", [])


def test_slow_body_times_out(front: Front, web: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for the whole body, so it ends a client that keeps sending small pieces."""
    monkeypatch.setattr(module, "BODY_SECONDS", 1)
    with connected(front.address) as client:
        client.sendall(request("/x", "Content-Length: 1000", method="POST"))
        pieces = 0
        while pieces < 100 and not select.select([client], [], [], 0.1)[0]:
            client.sendall(b"x")
            pieces += 1
        assert pieces < 100
        response = read(client)
    assert (response.status, response.all("connection")) == (408, [b"close"])
    assert not web.connections


@pytest.mark.parametrize(("line", "status"), [("Content-Length: 1048577", 413), ("Transfer-Encoding: chunked", 411)])
def test_unacceptable_body_is_refused_unread(line: str, status: int, front: Front, web: Upstream) -> None:
    """Under /api/ the response is the same as the management API's."""
    page = ask(front.address, request("/signin/", line, method="POST"))
    assert (page.status, page.all("content-type")) == (status, [b"text/html; charset=utf-8"])
    api = ask(front.address, request("/api/v1/endpoints", line, "Expect: 100-continue", method="POST"))
    assert (api.status, api.all("content-type")) == (status, [b"application/json"])
    assert json.loads(api.body) == json.loads(api_errors.error_response(status).content)
    assert not web.connections


# --- Responses -------------------------------------------------------------------------------------------------------


def test_response_head_passes_in_order(front: Front, web: Upstream) -> None:
    ours = ["Set-Cookie: a=1", "X-Twice: 1", "Set-Cookie: b=2", "x-twice: caf\xe9", "Content-Length: 4"]
    hop = [
        "Server: gunicorn", "Date: now", "Connection: keep-alive, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5",
        "Proxy-Authenticate: Basic", "Upgrade: h2c", "TE: trailers",
    ]  # fmt: skip
    lines = "\r\n".join(["HTTP/1.1 418 Tea", *hop[:4], *ours, *hop[4:], "", "body"])
    web.default = raw_script(lines.encode("latin-1"), then="keep")
    response = ask(front.address, request())
    assert response.head.decode("latin-1").split("\r\n")[1:] == ours
    assert (response.status, response.body) == (418, b"body")


def test_gunicorn_names_neither_itself_nor_the_time(wsgi: Front) -> None:
    response = ask(wsgi.address, request("/echo"))
    assert [line.partition(b":")[0] for line in response.head.split(b"\r\n")[1:]] == [
        b"Content-Type",
        b"Content-Length",
    ]


def test_responses_without_body_keep_the_connection(wsgi: Front) -> None:
    with connected(wsgi.address) as client:
        for target, method, status in [
            ("/echo", "HEAD", 200),
            ("/not-modified", "GET", 304),
            ("/no-content", "GET", 204),
            ("/stream", "HEAD", 200),
            ("/echo", "HEAD", 200),
        ]:
            client.sendall(request(target, method=method))
            response = Response(read_head(client), closed=False)
            assert response.status == status
            assert bool(response.all("content-length")) == (target == "/echo")
            assert response.all("transfer-encoding") == []
        client.sendall(request("/ignore-body", "Connection: close"))
        response = read(client)
        assert (response.status, response.body, response.closed) == (400, b"ignored", True)


def test_stream_arrives_piece_by_piece(wsgi: Front, tmp_path: Path) -> None:
    """The page sends each line only after the client has received the one before."""
    with connected(wsgi.address) as client:
        (tmp_path / "0").touch()  # gunicorn sends the head with the first line
        client.sendall(request(f"/stream?{tmp_path}"))
        assert b"transfer-encoding: chunked\r\n" in read_head(client)
        received = b""
        for number in range(3):
            (tmp_path / str(number)).touch()
            piece = b"7\r\nline %d\n\r\n" % number
            received += client.recv(len(piece), socket.MSG_WAITALL)
        received += client.recv(5, socket.MSG_WAITALL)
    assert received == b"7\r\nline 0\n\r\n7\r\nline 1\n\r\n7\r\nline 2\n\r\n0\r\n\r\n"


def test_stream_for_an_old_client_ends_by_close(wsgi: Front) -> None:
    response = exchange(wsgi.address, b"GET /stream HTTP/1.0\r\nHost: a\r\n\r\n")
    assert (response.body, response.closed, response.reset) == (b"line 0\nline 1\nline 2\n", True, False)


def test_slow_reader_slows_the_web_process_down(front: Front, web: Upstream) -> None:
    size, piece = 64 * 1024 * 1024, bytes(range(256)) * 256
    sent = 0

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.write(head(200, [("Content-Length", str(size))]))
        while sent < size:
            await exchange.write(piece)
            sent += len(piece)

    web.default = script
    with connected(front.address, receive_buffer=64 * 1024) as client:
        client.sendall(request())
        read_head(client)
        eventually(lambda: sent > 0)
        previous = -1
        while sent != previous:  # until everything between is full
            previous = sent
            time.sleep(0.3)
        assert sent < 12 * 1024 * 1024
        digest, received = hashlib.sha256(), 0
        while received < size:
            data = client.recv(1024 * 1024)
            assert data
            digest.update(data)
            received += len(data)
    assert digest.digest() == hashlib.sha256(piece * (size // len(piece))).digest()


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_response_cut_short_is_broken_off(framing: str, wsgi: Front) -> None:
    target = "/cut-short?length" if framing == "length" else "/cut-short"
    response = exchange(wsgi.address, request(target), silence=PATIENCE)
    assert (response.status, response.closed) == (200, True)
    assert b"the beginning" in response.body
    assert not response.body.endswith(b"0\r\n\r\n")
    assert len(response.body) < 1000


# --- Limits ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def waiting(front: Front, addresses: list[str]) -> Iterator[list[socket.socket]]:
    """Pages in flight, one for each of these clients."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(front.address)) for _ in addresses]
        for client, address in zip(clients, addresses, strict=True):
            client.sendall(request("/silent", f"X-Forwarded-For: {address}"))
        eventually(lambda: front.pages == len(addresses))
        yield clients
    eventually(lambda: not front.pages)


def page_of(front: Front, address: str) -> Response:
    return ask(front.address, request("/x", f"X-Forwarded-For: {address}"))


@pytest.mark.parametrize(
    ("addresses", "neighbour"),
    [
        (["192.0.2.1"] * 17, "192.0.2.2"),
        ([f"2001:db8:0:1::{number:x}" for number in range(17)], "2001:db8:0:2::1"),
    ],
)
def test_one_network_gets_sixteen_pages_at_a_time(
    addresses: list[str], neighbour: str, front: Front, web: Upstream, settings: Any
) -> None:
    settings.STRAKE_TRUSTED_PROXIES = 1
    web.on("/silent", silence)
    with waiting(front, addresses[:16]) as clients:
        refused = page_of(front, addresses[16])
        assert (refused.status, refused.all("retry-after")) == (503, [b"1"])
        assert page_of(front, neighbour).status == 200
        clients[0].close()
        eventually(lambda: front.pages == 15)
        assert page_of(front, addresses[16]).status == 200


def test_process_relays_64_pages_at_a_time(front: Front, web: Upstream, settings: Any) -> None:
    settings.STRAKE_TRUSTED_PROXIES = 1
    web.on("/silent", silence)
    with waiting(front, [f"192.0.2.{number}" for number in range(64)]):
        refused = page_of(front, "198.51.100.1")
        assert (refused.status, refused.all("retry-after")) == (503, [b"1"])
    assert page_of(front, "198.51.100.1").status == 200


def test_loopback_has_no_share(front: Front, web: Upstream) -> None:
    """It may be a reverse proxy that STRAKE_TRUSTED_PROXIES does not count."""
    web.on("/silent", silence)
    with waiting(front, ["ignored"] * 20):
        assert ask(front.address, request()).status == 200


# --- Clients that leave ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["before the head", "in a stream", "in a full stream"])
@pytest.mark.parametrize("leave", ["close", "reset"])
def test_leaving_client_ends_the_exchange(
    phase: str, leave: str, front: Front, web: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEAD_SECONDS", 300)
    scripts = {
        "before the head": silence,
        "in a stream": endless(b"x", every=0.05),
        "in a full stream": download(1024 * 1024 * 1024),
    }
    web.default = scripts[phase]
    with connected(front.address) as client:
        client.sendall(request())
        if phase != "before the head":
            read_head(client)
        eventually(lambda: web.exchanges)
        time.sleep(0.2)
        client.close() if leave == "close" else raw.reset(client)
    eventually(lambda: web.last.closed_at, what="closed")
    eventually(lambda: not front.pages)


@pytest.mark.parametrize("phase", ["in its body", "while the web process is away"])
def test_leaving_client_stops_waiting(phase: str, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_SECONDS", 300)
    monkeypatch.setattr(module, "WEB_SECONDS", 300)
    with connected(front.address) as client:
        client.sendall(request("/x", *(["Content-Length: 9"] if phase == "in its body" else []), method="POST"))
        eventually(lambda: front.pages)
    eventually(lambda: not front.pages)


# --- Web processes that come and go ----------------------------------------------------------------------------------


def test_connection_is_kept_for_the_next_page(front: Front, web: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEPALIVE_SECONDS", 60)
    for _ in range(5):
        assert ask(front.address, request()).status == 200
    assert len(web.connections) == 1


def test_kept_connection_that_closes_goes_unnoticed(
    front: Front, web: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a GET, which may be sent twice."""
    monkeypatch.setattr(module, "KEEPALIVE_SECONDS", 60)
    asked = []

    async def script(exchange: Exchange) -> None:
        asked.append(exchange)
        if len(asked) == 1:
            exchange.abort()
        else:
            await exchange.respond(body=b"here")

    web.on("/gone", script)
    assert ask(front.address, request()).status == 200
    assert ask(front.address, request("/gone")).body == b"here"
    assert len(asked) == 2


def test_form_gets_a_connection_of_its_own(front: Front, web: Upstream) -> None:
    """It must not be sent twice, so it must not meet a connection that is being closed."""
    assert ask(front.address, request()).status == 200
    assert ask(front.address, request(method="POST", body=b"x")).status == 200
    assert len(web.connections) == 2


def test_page_after_one_that_ignored_its_body_answers(wsgi: Front) -> None:
    for _ in range(5):
        assert ask(wsgi.address, request("/ignore-body", method="POST", body=b"x" * 70_000)).status == 400
        assert ask(wsgi.address, request("/echo")).status == 200


def test_idle_connections_are_closed(front: Front, web: Upstream) -> None:
    """A stopping web process waits for them."""
    assert ask(front.address, request()).status == 200
    eventually(lambda: web.last.closed_at)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_restart_between_two_requests_goes_unnoticed(number: int, front: Front, gunicorn: Gunicorn) -> None:
    with connected(front.address) as client:
        pids = set()
        for _ in range(3):
            client.sendall(request("/echo"))
            length = int(Response(read_head(client), closed=False).all("content-length")[0])
            pids.add(json.loads(client.recv(length, socket.MSG_WAITALL))["pid"])
            gunicorn.stop(number)
            gunicorn.start()
    assert len(pids) == 3


@pytest.mark.parametrize("pause", [1.4, 1.9, 2.1])
def test_connection_that_gunicorn_closes_goes_unnoticed(pause: float, wsgi: Front) -> None:
    for _ in range(4):
        assert ask(wsgi.address, request("/echo", method="POST", body=b"x")).status == 200
        time.sleep(pause)


@pytest.mark.parametrize("left_over", [True, False], ids=["refusing", "missing"])
def test_missing_web_process_is_a_503(left_over: bool, front: Front, web_socket: Path) -> None:
    if left_over:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(web_socket))
    began = time.monotonic()
    with connected(front.address) as page, connected(front.address) as api:
        page.sendall(request("/endpoints/", "Connection: close"))
        api.sendall(request("/api/v1/me", "Connection: close"))
        heads = [read_head(client) for client in (page, api)]
        assert time.monotonic() - began > 4.9
        responses = [
            Response(head + read(client).raw, closed=False) for head, client in zip(heads, (page, api), strict=True)
        ]
    for response in responses:
        assert (response.status, response.all("retry-after")) == (503, [b"2"])
        assert response.all("cache-control") == [b"no-store"]
        assert response.all("x-content-type-options") == [b"nosniff"]
        assert response.all("content-security-policy") == [b"default-src 'none'; frame-ancestors 'none'"]
    assert b"<h1>Strake's pages are starting</h1>" in responses[0].body
    assert json.loads(responses[1].body)["error"]["code"] == "web_unavailable"


def test_page_waits_for_the_web_process(front: Front, web_socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WEB_SECONDS", 60)
    with connected(front.address) as client:
        client.sendall(request())
        time.sleep(0.5)
        with Upstream(socket_path=web_socket):
            assert read_head(client).startswith(b"HTTP/1.1 200 ")


def test_page_works_at_once_after_an_outage(front: Front, web_socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WEB_SECONDS", 0.2)
    assert ask(front.address, request()).status == 503
    monkeypatch.setattr(module, "WEB_SECONDS", 60)
    with Upstream(socket_path=web_socket):
        began = time.monotonic()
        assert ask(front.address, request()).status == 200
        assert time.monotonic() - began < 20


def test_outage_is_logged_once(
    front: Front, web_socket: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "WEB_SECONDS", 0.0)
    for _ in range(3):
        assert ask(front.address, request()).status == 503
    assert caplog.messages == ["web_unavailable kind=FileNotFoundError"]


def test_silent_web_process_is_a_504(front: Front, web: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.3)
    web.on("/silent", silence)
    assert ask(front.address, request("/silent")).status == 504
    monkeypatch.setattr(module, "HEAD_SECONDS", 60)
    assert ask(front.address, request()).status == 200


def test_silence_after_the_head_has_no_limit(front: Front, web: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD_SECONDS", 2)
    web.default = raw_script(head(200, [("Content-Length", "3")]), b"abc", pause=4, then="keep")
    assert ask(front.address, request()).body == b"abc"


@pytest.mark.parametrize(
    "pieces", [(), (b"HTTP/1.1 200",), (b"nonsense\r\n\r\n",), (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",)]
)
def test_failing_web_process_is_a_502(pieces: tuple[bytes, ...], front: Front, web: Upstream) -> None:
    web.on("/fails", raw_script(*pieces))
    response = ask(front.address, request("/fails", method="POST", body=b"x"))
    assert (response.status, response.all("retry-after")) == (502, [])
    assert len(web.exchanges) == 1  # it may have done its work, so it is not asked again
    assert ask(front.address, request()).status == 200


@pytest.mark.parametrize(("killed", "status"), [(1, 200), (2, 200), (3, 502)])
def test_page_survives_web_processes_that_are_killed(killed: int, status: int, front: Front, web: Upstream) -> None:
    asked = []

    async def script(exchange: Exchange) -> None:
        asked.append(exchange)
        if len(asked) <= killed:
            exchange.abort()
        else:
            await exchange.respond(body=b"here")

    web.on("/page", script)
    assert ask(front.address, request("/page")).status == status
    assert len(asked) == min(killed + 1, module.SAFE_ATTEMPTS)


def test_closed_relay_breaks_pages_off(front: Front, web: Upstream) -> None:
    web.default = endless(b"x", every=0.05)
    with connected(front.address) as client:
        client.sendall(request())
        read_head(client)
        front.relay.close()
        response = read(client)
    assert response.closed
    assert not response.raw.endswith(b"0\r\n\r\n")


# --- The process -----------------------------------------------------------------------------------------------------


def test_relay_does_not_load_the_api() -> None:
    code = "import django, sys; django.setup(); import proxy.relay; print({'ninja', 'pydantic'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=django_settings.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
