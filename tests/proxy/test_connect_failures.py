"""Why a provider could not be reached: the client and the log are told, and no host name is."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.connect_failures import UpstreamCertificate, unreachable
from tests.support.certificates import Authority
from tests.support.raw import Response, ask, get
from tests.support.running import Strake, prepare_home
from tests.support.services import free_port


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def trusting(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory, migrated_database: Path
) -> Iterator[Strake]:
    environment = {
        "SSL_CERT_FILE": str(authority.path),
        "STRAKE_ALLOWED_PRIVATE_UPSTREAMS": "127.0.0.1/32,::1/128,nowhere.invalid:443",
    }
    with Strake(
        prepare_home(tmp_path_factory.mktemp("trusting") / "strake", migrated_database), environment
    ) as running:
        yield running


@contextlib.contextmanager
def server(answer: bytes, *, tls: ssl.SSLContext | None = None, waits: bool = False) -> Iterator[int]:
    """A server that sends `answer` on each connection, at once or when it `waits` for data, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = listening.accept()[0]
                    with contextlib.suppress(OSError), connection:
                        if tls is not None:
                            with tls.wrap_socket(connection, server_side=True) as stream:
                                stream.recv(4096)
                                stream.sendall(answer)
                            continue
                        if waits:
                            connection.recv(4096)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def failure(strake: Strake, destination: str) -> tuple[Response, str]:
    """Return the response of an endpoint with this destination, and the line that was logged."""
    endpoint = strake.connect(destination)
    response = ask(strake.address, get(endpoint))
    assert ask(strake.address, get(endpoint)).status == response.status
    lines = [line for line in strake.log().splitlines() if endpoint.subdomain in line]
    assert len(lines) == 1, "a repetition within a minute is counted, not logged"
    [request_id] = response.all("x-request-id")
    assert f" {request_id.decode()} WARNING proxy.application " in lines[0]
    return response, lines[0]


def assert_failure(strake: Strake, destination: str, code: str, kind: str) -> None:
    response, line = failure(strake, destination)
    assert (response.status, response.all("x-strake-error")) == (502, [code.encode()])
    assert re.search(rf"upstream_failed code={code} endpoint=\w{{12}} kind={kind}$", line), line
    host = destination.partition("//")[2].partition(":")[0]
    assert host not in line


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nothing_listens(scheme: str, trusting: Strake) -> None:
    assert_failure(trusting, f"{scheme}://127.0.0.1:{free_port()}", "upstream_refused", "ConnectionRefusedError")


def test_name_is_unknown(trusting: Strake) -> None:
    assert_failure(trusting, "https://nowhere.invalid", "upstream_name_unknown", "gaierror")


@pytest.mark.parametrize(
    ("names", "expired", "kind"),
    [(["a.test"], False, "Hostname mismatch"), (["localhost"], True, "certificate has expired")],
)
def test_certificate_is_invalid(
    names: list[str], expired: bool, kind: str, trusting: Strake, authority: Authority
) -> None:
    with server(OK, tls=authority.server(*names, expired=expired)) as port:
        kind = f"SSLCertVerificationError: {kind}"
        assert_failure(trusting, f"https://localhost:{port}", "upstream_certificate", kind)


def test_certificate_of_another_authority(trusting: Strake, tmp_path: Path) -> None:
    with server(OK, tls=Authority(tmp_path / "other").server("localhost")) as port:
        kind = "SSLCertVerificationError: unable to get local issuer certificate"
        assert_failure(trusting, f"https://localhost:{port}", "upstream_certificate", kind)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 smtp.example ESMTP\r\n"])
def test_https_to_a_server_without_tls(answer: bytes, waits: bool, trusting: Strake) -> None:
    with server(answer, waits=waits) as port:
        assert_failure(trusting, f"https://127.0.0.1:{port}", "upstream_wrong_scheme", "SSLError: [A-Z_]+")


def test_http_to_a_server_with_tls(trusting: Strake) -> None:
    alert = b"\x15\x03\x01\x00\x02\x02\x46"  # what OpenSSL answers
    with server(alert, waits=True) as port:
        assert_failure(trusting, f"http://127.0.0.1:{port}", "upstream_wrong_scheme", "TLS record")


def test_client_certificate_is_required(trusting: Strake, authority: Authority) -> None:
    context = authority.server("localhost")
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # since 1.3, the client learns it after the handshake
    context.verify_mode = ssl.CERT_REQUIRED
    with server(OK, tls=context) as port:
        assert_failure(trusting, f"https://localhost:{port}", "upstream_tls", "SSLError: [A-Z0-9_]+")


def test_connection_closes_without_an_answer(trusting: Strake) -> None:
    with server(b"", waits=True) as port:
        assert_failure(trusting, f"http://127.0.0.1:{port}", "upstream_unreachable", "(closed|ConnectionResetError)")


def test_kind_has_no_host_name() -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_message = "Hostname mismatch, certificate is not valid for 'secret.example'."
    found = unreachable(error)
    assert isinstance(found, UpstreamCertificate)
    assert found.kind == "SSLCertVerificationError: Hostname mismatch"
