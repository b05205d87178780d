"""Strake never sends a request to itself: not to its own socket, and not for long through another proxy."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.support import raw
from tests.support.running import KEY, Endpoint, Strake
from tests.support.services import free_port
from tests.support.upstream import Upstream, eventually


def records(strake: Strake, endpoint: Endpoint) -> list[int]:
    return [record["status"] for record in strake.call("records", subdomain=endpoint.subdomain)["records"]]


@contextmanager
def network_in_front(strake: Strake, port: int, endpoint: Callable[[], Endpoint]) -> Iterator[None]:
    """A server that passes requests on to an endpoint, like a content delivery network that its owner configured."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with raw.connected(strake.address) as behind:
                behind.settimeout(60)
                head = raw.read_head(self.request)
                head = head.replace(b" /x", f" {endpoint().path}/x".encode()).replace(
                    KEY.encode(), endpoint().token.encode()
                )
                behind.sendall(head)
                while data := behind.recv(65536):
                    self.request.sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_loop_through_another_proxy_ends_at_once(strake: Strake) -> None:
    port = free_port()
    endpoint = strake.connect(f"http://127.0.0.1:{port}")
    with network_in_front(strake, port, lambda: endpoint):
        response = httpx.get(f"{endpoint.url}/x", headers={**endpoint.bearer, "Connection": "close"}, timeout=60)
    assert (response.status_code, response.json()["error"]["code"]) == (508, "loop")
    eventually(lambda: records(strake, endpoint) and strake.call("refusals", subdomain=endpoint.subdomain)["refusals"])
    assert records(strake, endpoint) == [508]
    (refused,) = strake.call("refusals", subdomain=endpoint.subdomain)["refusals"]
    assert (refused["code"], refused["count"]) == ("loop", 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_own_socket_is_never_connected_to(host: str, run_strake: Callable[..., Strake], upstream: Upstream) -> None:
    """The destination was another server's when it was entered."""
    running = run_strake(STRAKE_ALLOWED_PRIVATE_UPSTREAMS="127.0.0.0/8,::1/128")
    port = free_port()
    endpoint = running.connect(f"http://{host}:{port}")
    running.stop()
    running.port = port
    running.environment["PORT"] = str(port)
    running.start()
    response = httpx.get(f"{running.url}{endpoint.path}/x", headers=endpoint.bearer)
    assert (response.status_code, response.headers["x-strake-error"]) == (508, "loop")
    eventually(lambda: records(running, endpoint))
    assert records(running, endpoint) == [508]


@pytest.mark.parametrize("upgrade", ["", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"], ids=["http", "ws"])
def test_own_marker_is_refused(upgrade: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    httpx.get(f"{endpoint.url}/x", headers={**endpoint.bearer, "X-Strake-Hop": "0123456789abcdef"})
    marker = upstream.last.header("x-strake-hop")
    assert marker is not None
    assert marker.startswith(b"0123456789abcdef, ")
    request = (
        f"GET {endpoint.path}/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {endpoint.token}\r\n"
        f"Connection: {'Upgrade' if upgrade else 'close'}\r\n{upgrade}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"X-Strake-Hop: {marker.decode()}\r\n\r\n"
    )
    response = raw.exchange(strake.address, request.encode())
    assert b" 508 " in response.raw.partition(b"\r\n")[0]
    assert b"x-strake-error: loop" in response.raw.lower()
    assert len(upstream.exchanges) == 1
