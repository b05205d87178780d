"""TLS to providers: certificates and names are verified, and connections are not shared between names."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from proxy.errors import UpstreamForbidden, UpstreamUnreachable
from proxy.upstream.origin import Origin
from proxy.upstream.pool import ConnectionPool
from tests.support.certificates import Authority
from tests.support.upstream import Upstream

KEY = b"Bearer sk-canary"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def provider(authority: Authority) -> Iterator[Upstream]:
    """A TLS server on loopback whose certificate is for a.test."""
    with Upstream(tls=authority.server("a.test")) as running:
        yield running


@pytest.fixture
async def pool(authority: Authority, settings: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ConnectionPool]:
    """A pool that trusts the authority and resolves every name to 127.0.0.1, which is allowed."""

    def getaddrinfo(host: str, port: None, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.1/32"]
    pool = ConnectionPool()
    pool._tls.load_verify_locations(cafile=authority.path)
    yield pool
    pool.close()


async def ask(pool: ConnectionPool, host: str, port: int, *, scheme: str = "https") -> bytes:
    """Send a GET and return the body of its response."""
    origin = Origin(scheme, host, port)
    headers = [(b"host", host.encode())]
    key_header = (b"authorization", bytearray(KEY))
    response = await pool.send(
        origin, "GET", b"/x", headers, key_header, b"", credential_id=1, owner_id=1, owner_email=""
    )
    body = b""
    while chunk := await response.read():
        body += chunk
    response.close()
    return body


async def test_valid_certificate_is_accepted(pool: ConnectionPool, provider: Upstream) -> None:
    for _ in range(3):
        assert b'"target": "/x"' in await ask(pool, "a.test", provider.port)
    assert len(provider.connections) == 1


async def test_connection_is_not_shared_between_names(pool: ConnectionPool, provider: Upstream) -> None:
    """A pool keyed by address would send the key for b.test to the server of a.test."""
    await ask(pool, "a.test", provider.port)
    with pytest.raises(UpstreamUnreachable):
        await ask(pool, "b.test", provider.port)
    await ask(pool, "a.test", provider.port)
    assert [exchange.header("host") for exchange in provider.exchanges] == [b"a.test", b"a.test"]


@pytest.mark.parametrize(
    "context",
    [
        lambda authority: authority.server("other.test"),
        lambda authority: authority.server("a.test", expired=True),
        lambda authority: authority.server("*.a.test"),
        lambda authority: Authority(authority.folder / "unknown").server("a.test"),
    ],
    ids=["another name", "expired", "wildcard of another level", "unknown authority"],
)
async def test_invalid_certificate_gets_no_request(
    context: Callable[[Authority], ssl.SSLContext], pool: ConnectionPool, authority: Authority
) -> None:
    with Upstream(tls=context(authority)) as provider:
        with pytest.raises(UpstreamUnreachable):
            await ask(pool, "a.test", provider.port)
        assert not provider.exchanges


async def test_server_without_tls_gets_no_request(pool: ConnectionPool, upstream: Upstream) -> None:
    with pytest.raises(UpstreamUnreachable):
        await ask(pool, "a.test", upstream.port)
    assert not upstream.exchanges
    assert KEY.decode() not in str(upstream.malformed)


async def test_forbidden_address_gets_no_connection(pool: ConnectionPool, provider: Upstream, settings: Any) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = []
    strict = ConnectionPool()
    for host in ("a.test", "127.0.0.1"):
        for scheme in ("https", "http"):
            with pytest.raises(UpstreamForbidden):
                await ask(strict, host, provider.port, scheme=scheme)
    strict.close()
    assert not provider.connections
