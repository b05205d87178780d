"""Responses of pages and the API are framed in one way only (RFC 9112 §6.2). Strict clients refuse others."""

from __future__ import annotations

import http.client
import json
import socket

import pytest

from tests.support.running import Strake

PAGES = ["/healthz", "/signin/", "/api/v1/me", "/api/v1/openapi.json", "/nonesuch/", "/static/strake/css/strake.css"]


def send(server: Strake, requests: bytes) -> bytes:
    """Return everything the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(requests)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_response_has_either_length_or_chunks(strake: Strake, method: str) -> None:
    for path in PAGES:
        request = f"{method} {path} HTTP/1.1\r\nHost: localhost:{strake.port}\r\nConnection: close\r\n\r\n"
        head, _, body = send(strake, request.encode()).partition(b"\r\n\r\n")
        fields = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
        lengths = [int(value) for name, _, value in fields if name.lower() == b"content-length"]
        codings = [value.strip() for name, _, value in fields if name.lower() == b"transfer-encoding"]
        assert len(lengths) + len(codings) <= 1, (path, lengths, codings)
        if lengths and method == "GET":
            assert len(body) == lengths[0], path


def test_responses_on_one_connection_are_separate(strake: Strake) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", strake.port, timeout=20)
    for path, status in [("/healthz", 200), ("/api/v1/me", 401), ("/healthz", 200)]:
        connection.request("GET", path, headers={"Host": f"localhost:{strake.port}"})
        response = connection.getresponse()
        body = response.read()
        assert (response.status, body[:1], body[-1:]) == (status, b"{", b"}")
    connection.close()


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [("Content-Length: 2000000", 413, "too_large"), ("Transfer-Encoding: chunked", 411, "length_required")],
)
@pytest.mark.parametrize("path", ["/signin/", "/api/v1/endpoints"])
def test_unacceptable_body_is_refused_unread(strake: Strake, path: str, header: str, status: int, code: str) -> None:
    """The response arrives before any of the body is sent. Under /api/ it has the form of every error there."""
    request = f"POST {path} HTTP/1.1\r\nHost: localhost:{strake.port}\r\n{header}\r\n\r\n"
    head, _, body = send(strake, request.encode()).partition(b"\r\n\r\n")
    fields = dict(line.lower().split(": ") for line in head.decode().splitlines()[1:])
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert fields["x-content-type-options"] == "nosniff"
    assert fields["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in fields["content-security-policy"]
    if path.startswith("/api/"):
        assert fields["content-type"] == "application/json"
        content = json.loads(body)
        assert set(content) == {"error"}
        assert content["error"]["code"] == code
        assert content["error"]["message"]


@pytest.mark.parametrize("target", ["http://evil.example/signin/", "//evil.example/signin/", "evil.example:443", "*"])
def test_target_with_another_host_is_refused(strake: Strake, target: str) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: localhost:{strake.port}\r\nConnection: close\r\n\r\n"
    response = send(strake, request.encode())
    assert response[9:12] in {b"400", b"404"}
    assert b"evil.example" not in response
