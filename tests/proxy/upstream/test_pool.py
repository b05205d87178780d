"""The connection pool: idle connections are reused, and closed after a while."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from proxy.errors import UpstreamInvalid
from proxy.upstream import pool as pool_module
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.origin import Origin
from proxy.upstream.pool import ConnectionPool
from proxy.upstream.request_head import encode_head
from tests.support.upstream import Upstream, until


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A provider to which nothing else has connections."""
    with Upstream() as running:
        yield running


@pytest.fixture
async def pool(settings: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ConnectionPool]:
    """A pool that keeps idle connections for three seconds."""
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.1/32"]
    monkeypatch.setattr(pool_module, "KEEPALIVE_SECONDS", 3)
    monkeypatch.setattr(pool_module, "SWEEP_SECONDS", 0.05)
    pool = ConnectionPool()
    yield pool
    pool.close()


async def get(pool: ConnectionPool, upstream: Upstream) -> None:
    origin = Origin("http", "127.0.0.1", upstream.port)
    key_header = (b"authorization", bytearray(b"Bearer sk-canary"))
    response = await pool.send(
        origin, "GET", b"/x", [(b"host", b"a")], key_header, b"", credential_id=1, owner_id=1, owner_email=""
    )
    while not response.finished:
        await response.read()
    response.close()


async def test_idle_connection_is_reused_then_closed(pool: ConnectionPool, upstream: Upstream) -> None:
    for _ in range(3):
        await get(pool, upstream)
    assert len(upstream.connections) == 1
    assert upstream.open_connections == 1
    await until(lambda: upstream.open_connections == 0)
    await until(lambda: not pool._idle)  # or the pool would grow with every provider
    await get(pool, upstream)
    assert len(upstream.connections) == 2


async def test_close_aborts_every_connection(pool: ConnectionPool, upstream: Upstream) -> None:
    await get(pool, upstream)
    assert upstream.open_connections == 1
    pool.close()
    await until(lambda: upstream.open_connections == 0)


async def test_no_copy_of_a_key_remains(
    pool: ConnectionPool, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, sent = [], []
    begin = UpstreamConnection.begin

    def encode(*arguments: Any, **options: Any) -> Any:
        heads.append(encode_head(*arguments, **options))
        return heads[-1]

    def keep(self: UpstreamConnection, data: bytearray, **options: Any) -> None:
        sent.append(data)
        begin(self, data, **options)

    monkeypatch.setattr(pool_module, "encode_head", encode)
    monkeypatch.setattr(UpstreamConnection, "begin", keep)
    response = await pool.send(
        Origin("http", "127.0.0.1", upstream.port),
        "GET",
        bytearray(b"/x?key=sk-canary"),
        [(b"host", b"a")],
        (b"x-key", bytearray(b"sk-canary\r\nx-other: sk-canary")),
        b"",
        credential_id=1,
        owner_id=1,
        owner_email="",
        key_lines=2,
    )
    response.close()
    assert upstream.last.target == b"/x?key=sk-canary"
    assert upstream.last.header("x-other") == b"sk-canary"
    assert [b"sk-" in data for data in (*heads, *sent)] == [False, False]


@pytest.mark.parametrize(("value", "lines"), [(b"a\r\nb: c", 1), (b"a\r\nb: c\r\nd: e", 2)])
def test_line_breaks_in_a_key_are_refused(value: bytes, lines: int) -> None:
    for target in (b"/", bytearray(b"/")):
        with pytest.raises(UpstreamInvalid):
            encode_head("GET", target, [], (b"x-key", bytearray(value)), chunked=False, key_lines=lines)
