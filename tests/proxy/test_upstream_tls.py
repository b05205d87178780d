"""TLS to providers: certificate and name are verified, and a connection is never used for another name."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy.errors import UpstreamForbidden, UpstreamUnreachable
from proxy.upstream import Origin
from proxy.upstream import Upstream as Transport
from tests.upstream import Upstream

KEY = b"Bearer sk-canary"


class Authority:
    """A certificate authority of the tests' own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Strake's tests")])
        self.certificate = self._sign(
            self.name, self.key.public_key(), x509.BasicConstraints(ca=True, path_length=None)
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def server(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        """The context of a server with a certificate for these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = self._sign(subject, key.public_key(), alternative, expired=expired)
        path = self.folder / f"{names[0]}-{expired}.pem"
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _sign(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        extension: x509.ExtensionType,
        *,
        expired: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        end = now - datetime.timedelta(days=1) if expired else now + datetime.timedelta(days=1)
        builder = x509.CertificateBuilder(self.name, subject, public_key, x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=2)).not_valid_after(end)
        return builder.add_extension(extension, critical=False).sign(self.key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def provider(authority: Authority) -> Iterator[Upstream]:
    """A TLS server on loopback whose certificate is for a.test."""
    with Upstream(tls=authority.server("a.test")) as running:
        yield running


@pytest.fixture
async def transport(authority: Authority, settings: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Transport]:
    """A transport that trusts the authority, where every name leads to 127.0.0.1, which is open."""

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.1/32"]
    made = Transport()
    made._tls.load_verify_locations(cadata=authority.pem)
    yield made
    made.close()


async def ask(transport: Transport, host: str, port: int, *, scheme: str = "https") -> bytes:
    """The body of one GET."""
    origin = Origin(scheme, host, port)
    headers = [(b"host", host.encode())]
    response = await transport.send(origin, "GET", b"/x", headers, (b"authorization", bytearray(KEY)), b"")
    body = b""
    while chunk := await response.read():
        body += chunk
    response.close()
    return body


async def test_certificate_for_the_name_is_accepted_and_its_connection_reused(
    transport: Transport, provider: Upstream
) -> None:
    for _ in range(3):
        assert b'"target": "/x"' in await ask(transport, "a.test", provider.port)
    assert len(provider.connections) == 1


async def test_second_name_on_the_same_address_does_not_get_the_first_ones_connection(
    transport: Transport, provider: Upstream
) -> None:
    """A pool by address would send the key for b.test to whoever has the certificate of a.test."""
    await ask(transport, "a.test", provider.port)
    with pytest.raises(UpstreamUnreachable):
        await ask(transport, "b.test", provider.port)
    await ask(transport, "a.test", provider.port)
    assert [exchange.header("host") for exchange in provider.exchanges] == [b"a.test", b"a.test"]


@pytest.mark.parametrize(
    "context",
    [
        lambda authority: authority.server("other.test"),
        lambda authority: authority.server("a.test", expired=True),
        lambda authority: authority.server("*.a.test"),
        lambda authority: Authority(authority.folder).server("a.test"),
    ],
    ids=["another name", "expired", "wildcard of another level", "unknown authority"],
)
async def test_certificate_that_does_not_hold_gets_no_request(
    context: Callable[[Authority], ssl.SSLContext], transport: Transport, authority: Authority
) -> None:
    with Upstream(tls=context(authority)) as provider:
        with pytest.raises(UpstreamUnreachable):
            await ask(transport, "a.test", provider.port)
        assert not provider.exchanges


async def test_server_without_tls_gets_no_request(transport: Transport, upstream: Upstream) -> None:
    with pytest.raises(UpstreamUnreachable):
        await ask(transport, "a.test", upstream.port)
    assert not upstream.exchanges
    assert KEY.decode() not in str(upstream.malformed)


async def test_forbidden_address_gets_no_connection(transport: Transport, provider: Upstream, settings: Any) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = []
    guarded = Transport()
    for host in ("a.test", "127.0.0.1"):
        for scheme in ("https", "http"):
            with pytest.raises(UpstreamForbidden):
                await ask(guarded, host, provider.port, scheme=scheme)
    guarded.close()
    assert not provider.connections
