"""What is in flight ends when its access ends, in every process."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import Cluster, cluster
from tests.support.raw import Response, ask, connected, get, read_head
from tests.support.running import Endpoint, Strake, prepare_home
from tests.support.upstream import Exchange, Upstream, early, endless, eventually, head, silence

# Strake promises two seconds. This is how long a test waits on a busy machine before it calls a request endless.
ENDS_WITHIN = 20.0
FRAME = b"\x81\x82\x00\x00\x00\x00hi"  # a masked text frame
CLOSED_1008 = b"\x88\x02\x03\xf0"


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def strake(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated_database: Path
) -> Iterator[Strake]:
    """One process on SQLite, two on PostgreSQL."""
    environment = {}
    if request.param == "postgresql":
        shared: Cluster = request.getfixturevalue("postgres_cluster")
        shared.create_migrated("in_flight")
        environment = {"DATABASE_URL": shared.url_of("in_flight"), "WEB_CONCURRENCY": "2"}
    with Strake(prepare_home(tmp_path_factory.mktemp("in-flight") / "home", migrated_database), environment) as running:
        yield running


@early
async def echo_frames(exchange: Exchange) -> None:
    await exchange.write(head(101, [("Upgrade", "websocket"), ("Connection", "Upgrade")]))
    while data := await exchange.connection.reader.read(1024):
        await exchange.write(data)


@early
async def read_slowly(exchange: Exchange) -> None:
    await exchange.read_body(rate=1000)


class Client:
    """One request in flight. Reads its response in a thread until the connection closes."""

    def __init__(self, strake: Strake, raw: bytes, *, head: bool = False) -> None:
        self._connection = socket.create_connection(strake.address, 30)
        self._connection.sendall(raw)
        self.head = read_head(self._connection) if head else b""
        self.received = b""
        self.ended_at = 0.0
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def ended(self) -> Response:
        """Wait until Strake has closed the connection. Returns what arrived after the head."""
        self._thread.join(ENDS_WITHIN)
        assert not self._thread.is_alive(), "it still goes on"
        self._connection.close()
        return Response(self.received, closed=True)

    def _read(self) -> None:
        self._connection.settimeout(ENDS_WITHIN * 2)
        try:
            while data := self._connection.recv(64 * 1024):
                self.received += data
        except OSError:
            pass
        self.ended_at = time.monotonic()


class Clients:
    """A stream, an upload, a WebSocket connection and a request that waits for its head, all through one endpoint."""

    def __init__(self, strake: Strake, upstream: Upstream, endpoint: Endpoint) -> None:
        upstream.on("/stream", endless(b"data: 1\n\n", every=0.05))
        upstream.on("/upload", read_slowly)
        upstream.on("/socket", echo_frames)
        upstream.on("/silent", silence)
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: a")
        self.stream = Client(strake, get(endpoint, "/stream"), head=True)
        self.upload = Client(strake, get(endpoint, "/upload", "Content-Length: 1000000", method="POST") + b"x" * 500)
        self.socket = Client(strake, get(endpoint, "/socket", *upgrade), head=True)
        self.silent = Client(strake, get(endpoint, "/silent"))
        self.socket.send(FRAME)
        eventually(lambda: self.socket.received.endswith(FRAME) and self.stream.received, what="data passes")
        paths = {"/stream", "/upload", "/socket", "/silent"}
        eventually(lambda: {one.path for one in upstream.exchanges} >= paths, what="the provider has every request")
        self.exchanges = {one.path: one for one in upstream.exchanges}

    def check(self, code: str) -> dict[str, float]:
        """Check that each has ended as it should. Returns when."""
        assert not self.stream.ended().raw.endswith(b"0\r\n\r\n"), "a clean end"
        assert self.socket.ended().raw.endswith((FRAME + CLOSED_1008, FRAME))
        for client in (self.upload, self.silent):
            response = client.ended()
            assert 400 <= response.status < 600
            assert response.all("x-strake-error") == [code.encode()]
        eventually(lambda: all(one.closed_at for one in self.exchanges.values()), what="the provider's connections end")
        clients = {"stream": self.stream, "upload": self.upload, "WebSocket": self.socket, "waiting": self.silent}
        return {kind: client.ended_at for kind, client in clients.items()}


def replace_key(strake: Strake, endpoint: Endpoint) -> None:
    strake.call("replace_key", subdomain=endpoint.subdomain, key="sk-another-0123456789abcdefghij")


ENDINGS: dict[str, tuple[Callable[[Strake, Endpoint], Any], str]] = {
    "revoke": (lambda strake, endpoint: strake.revoke(endpoint), "invalid_token"),
    "rotate": (lambda strake, endpoint: strake.rotate(endpoint), "invalid_token"),
    "expire": (lambda strake, endpoint: strake.call("expire", token_id=endpoint.token_id), "invalid_token"),
    "pause": (lambda strake, endpoint: strake.call("pause", subdomain=endpoint.subdomain), "endpoint_paused"),
    "replace key": (replace_key, "key_replaced"),
    "delete endpoint": (
        lambda strake, endpoint: strake.call("delete", subdomain=endpoint.subdomain),
        "unknown_endpoint",
    ),
    "delete account": (
        lambda strake, endpoint: strake.call("delete_account", email=owner_of(endpoint)),
        "unknown_endpoint",
    ),
    "suspend person": (lambda strake, endpoint: strake.call("suspend", email=owner_of(endpoint)), "invalid_token"),
}
_owners: dict[str, str] = {}


def owner_of(endpoint: Endpoint) -> str:
    return _owners[endpoint.subdomain]


def connect(strake: Strake, upstream: Upstream, name: str) -> Endpoint:
    email = f"{name.replace(' ', '-')}@example.org"
    endpoint = strake.connect(upstream.url, email=email)
    _owners[endpoint.subdomain] = email
    return endpoint


@pytest.mark.parametrize("ending", ENDINGS)
def test_end_of_access_ends_what_is_in_flight(strake: Strake, upstream: Upstream, ending: str) -> None:
    """`pytest -s` prints the seconds of each kind."""
    end, code = ENDINGS[ending]
    endpoint = connect(strake, upstream, ending)
    neighbour = connect(strake, upstream, f"not {ending}")
    clients = Clients(strake, upstream, endpoint)
    beside = Client(strake, get(neighbour, "/stream"), head=True)
    end(strake, endpoint)
    done = time.monotonic()
    ended_at = clients.check(code)
    print(ending, {kind: f"{max(0.0, at - done):.2f}" for kind, at in ended_at.items()})  # noqa: T201
    assert not beside.ended_at, "a neighbour's stream goes on"
    strake.revoke(neighbour)
    beside.ended()


def test_end_of_a_parent_ends_its_child(strake: Strake, upstream: Upstream) -> None:
    parent = connect(strake, upstream, "parent")
    child = strake.issue(parent, parent_id=parent.token_id)
    clients = Clients(strake, upstream, child)
    # Only the parent's row changes. The services write the children's too.
    strake.call("expire", token_id=parent.token_id)
    clients.check("invalid_token")
    assert ask(strake.address, get(child, "/x")).status == 401


def test_token_is_limited_in_each_process(strake: Strake, upstream: Upstream) -> None:
    upstream.on("/stream", endless(b"data: 1\n\n", every=0.05))
    limited = strake.issue(connect(strake, upstream, "limited"), concurrent_requests=1)
    clients = [Client(strake, get(limited, "/stream", "Connection: close"), head=True) for _ in range(4)]
    refused = [client for client in clients if b"x-strake-error: token_busy" in client.head]
    assert 4 - len(strake.workers) <= len(refused) < 4
    strake.revoke(limited)
    for client in clients:
        client.ended()


def test_family_shares_a_budget_in_all_processes(strake: Strake, upstream: Upstream) -> None:
    parent = strake.issue(connect(strake, upstream, "budget"), requests_per_day=5)
    child = strake.issue(parent, parent_id=parent.token_id)
    assert [ask(strake.address, get(token, "/x")).status for token in (parent, child, parent, child, parent)] == [
        200
    ] * 5

    def answers() -> list[Response]:
        return [ask(strake.address, get(token, "/x")) for token in (parent, child) * 3]

    # Alone, a process is exact. Another hears of it within five seconds, and the test's machine is busy.
    eventually(lambda: {one.status for one in answers()} == {429}, what="every process refuses")
    last = answers()
    passed = len([one for one in upstream.exchanges if one.path == "/x"])
    assert passed == 5 if len(strake.workers) == 1 else passed >= 5
    assert last[0].all("x-strake-error") == [b"budget_exceeded"]
    assert last[0].all("x-should-retry") == [b"false"]
    assert 0 < int(last[0].all("retry-after")[0]) <= 86400


def test_slow_reader_is_ended_too(strake: Strake, upstream: Upstream) -> None:
    """Its socket is full, so a close would wait until it reads."""
    upstream.on("/flood", endless(b"x" * 65536))
    endpoint = connect(strake, upstream, "slow reader")
    with connected(strake.address, receive_buffer=4096) as connection:
        connection.sendall(get(endpoint, "/flood"))
        eventually(lambda: upstream.exchanges, what="the provider has the request")
        exchange = upstream.last
        strake.revoke(endpoint)
        eventually(lambda: exchange.closed_at, what="the provider's connection closes")
        eventually(lambda: has_been_reset(connection), what="the client's connection is reset")


def has_been_reset(connection: socket.socket) -> bool:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def test_ended_requests_are_recorded_with_their_reason(strake: Strake, upstream: Upstream) -> None:
    endpoint = connect(strake, upstream, "recorded")
    clients = Clients(strake, upstream, endpoint)
    strake.call("pause", subdomain=endpoint.subdomain)
    clients.check("endpoint_paused")
    records = eventually(
        lambda: len(found := strake.call("records", subdomain=endpoint.subdomain)["records"]) >= 4 and found,
        what="four records",
    )
    assert {403} <= {record["status"] for record in records}


# --- The store is down ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    with cluster() as own:
        yield own


@pytest.fixture
def on_own_cluster(run_strake: Callable[..., Strake], own_cluster: Cluster) -> Callable[..., Strake]:
    """Start a Strake on a new database of the cluster that tests may stop."""

    def start(**environment: str) -> Strake:
        name = f"of_{secrets.token_hex(4)}"
        own_cluster.create_migrated(name)
        return run_strake(DATABASE_URL=own_cluster.url_of(name), **environment)

    return start


@contextlib.contextmanager
def stopped(own: Cluster, strake: Strake) -> Iterator[None]:
    strake.hang_up()
    own.stop()
    try:
        yield
    finally:
        own.start()


@pytest.mark.postgres
def test_short_outage_breaks_no_stream(
    on_own_cluster: Callable[..., Strake], upstream: Upstream, own_cluster: Cluster
) -> None:
    upstream.on("/stream", endless(b"data: 1\n\n", every=0.05))
    strake = on_own_cluster()
    endpoint = strake.connect(upstream.url)
    client = Client(strake, get(endpoint, "/stream"), head=True)
    with stopped(own_cluster, strake):
        time.sleep(3)
    eventually(lambda: ask(strake.address, get(endpoint, "/x")).status == 200, what="requests pass again")
    received = len(client.received)
    eventually(lambda: len(client.received) > received, what="the stream goes on")
    strake.revoke(endpoint)
    client.ended()


@pytest.mark.postgres
def test_long_outage_ends_everything(
    on_own_cluster: Callable[..., Strake], upstream: Upstream, own_cluster: Cluster
) -> None:
    strake = on_own_cluster(STRAKE_STORE_GRACE="4")
    endpoint = strake.connect(upstream.url)
    clients = Clients(strake, upstream, endpoint)
    with stopped(own_cluster, strake):
        began = time.monotonic()
        ended_at = clients.check("store_unavailable")
    assert min(ended_at.values()) - began > 2, "it waits for the store"


@pytest.mark.postgres
def test_expiry_needs_no_store(on_own_cluster: Callable[..., Strake], upstream: Upstream, own_cluster: Cluster) -> None:
    upstream.on("/stream", endless(b"data: 1\n\n", every=0.05))
    strake = on_own_cluster()
    endpoint = strake.connect(upstream.url)
    soon = strake.call("issue_for", subdomain=endpoint.subdomain, seconds=4)
    client = Client(strake, get(Endpoint(endpoint.url, endpoint.subdomain, **soon), "/stream"), head=True)
    with stopped(own_cluster, strake):
        client.ended()
        assert "in_flight_ended" not in strake.log(), "the store is not down for long enough"
