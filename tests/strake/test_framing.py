"""Answers of pages and the API say in one way only where they end (RFC 9112 §6.2); strict clients refuse others."""

from __future__ import annotations

import http.client
import json
import socket

import pytest

from tests.running import Strake

PAGES = ["/healthz", "/signin/", "/api/v1/me", "/api/v1/openapi.json", "/nonesuch/", "/static/strake/strake.css"]


def heads_and_rest(server: Strake, requests: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(requests)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_answer_has_a_length_or_chunks_and_never_both(strake: Strake, method: str):
    for path in PAGES:
        request = f"{method} {path} HTTP/1.1\r\nHost: localhost:{strake.port}\r\nConnection: close\r\n\r\n"
        head, _, body = heads_and_rest(strake, request.encode()).partition(b"\r\n\r\n")
        fields = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
        lengths = [int(value) for name, _, value in fields if name.lower() == b"content-length"]
        codings = [value.strip() for name, _, value in fields if name.lower() == b"transfer-encoding"]
        assert len(lengths) + len(codings) <= 1, (path, lengths, codings)
        if lengths and method == "GET":
            assert len(body) == lengths[0], path


def test_two_answers_on_one_connection_stay_apart(strake: Strake):
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
def test_body_that_no_page_takes_is_refused_unread(strake: Strake, path: str, header: str, status: int, code: str):
    """Nothing of the body has been sent when the answer comes; under /api/ it has the shape of every error there."""
    request = f"POST {path} HTTP/1.1\r\nHost: localhost:{strake.port}\r\n{header}\r\n\r\n"
    head, _, body = heads_and_rest(strake, request.encode()).partition(b"\r\n\r\n")
    fields = dict(line.lower().split(": ") for line in head.decode().splitlines()[1:])
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert fields["x-content-type-options"] == "nosniff"
    assert fields["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in fields["content-security-policy"]
    if path.startswith("/api/"):
        assert fields["content-type"] == "application/json"
        answer = json.loads(body)
        assert set(answer) == {"error"}
        assert answer["error"]["code"] == code
        assert answer["error"]["message"]


@pytest.mark.parametrize("target", ["http://evil.example/signin/", "//evil.example/signin/", "evil.example:443", "*"])
def test_target_that_names_another_host_is_no_page(strake: Strake, target: str):
    request = f"GET {target} HTTP/1.1\r\nHost: localhost:{strake.port}\r\nConnection: close\r\n\r\n"
    answer = heads_and_rest(strake, request.encode())
    assert answer[9:12] in {b"400", b"404"}
    assert b"evil.example" not in answer
