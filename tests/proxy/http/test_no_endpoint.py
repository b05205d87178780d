"""A base URL without the endpoint: SDKs get an error that says so, and people get their pages."""

from __future__ import annotations

import json

import pytest

from tests.support.raw import Response, ask
from tests.support.running import Endpoint, Strake

_TOKEN = "strk_" + "0" * 49


def call(strake: Strake, path: str, *lines: str, method: str = "POST") -> Response:
    head = [f"{method} {path} HTTP/1.1", f"Host: localhost:{strake.port}", *lines, "Content-Length: 2", "", "{}"]
    return ask(strake.address, "\r\n".join(head).encode())


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/models", "/v1", "/v1/", "/openai/v1/responses", "/chat/completions", "/models",
     "/v1beta1/x", "/mcp", "/v2/chat", "/openai/deployments/x/chat/completions?api-version=1"],
)  # fmt: skip
def test_api_paths_without_endpoint_get_json(path: str, strake: Strake) -> None:
    response = call(strake, path)
    assert response.status == 421
    assert response.all("x-strake-error") == [b"no_endpoint"]
    assert response.all("x-should-retry") == [b"false"]
    message = json.loads(response.body)["error"]["message"]
    assert f"http://localhost:{strake.port}/p/abc123def456" in message


@pytest.mark.parametrize(
    ("path", "lines", "key"),
    [
        ("/v1/messages", ["Authorization: Bearer x"], "type"),
        ("/v1/messages?beta=true", ["x-api-key: x", "anthropic-version: 2023-06-01"], "type"),
        ("/v1beta/models/gemini-2.5-flash:generateContent", ["x-goog-api-key: x"], "status"),
        ("/v1beta/models/gemini-2.5-flash:generateContent?key=x", [], "status"),
        ("/v1/responses", ["Authorization: Bearer x"], "code"),
    ],
)
def test_error_has_the_format_of_the_sdk(path: str, lines: list[str], key: str, strake: Strake) -> None:
    body = json.loads(call(strake, path, *lines).body)
    expected = {"type": "not_found_error", "status": "NOT_FOUND", "code": "no_endpoint"}
    assert body["error"][key] == expected[key]
    assert (body.get("type") == "error") == (key == "type")


@pytest.mark.parametrize("line", [f"Authorization: Bearer {_TOKEN}", f"x-api-key: {_TOKEN}", f"xi-api-key: {_TOKEN}"])
def test_token_shows_that_an_endpoint_is_meant(line: str, strake: Strake) -> None:
    assert call(strake, "/somewhere/else", line).all("x-strake-error") == [b"no_endpoint"]
    assert call(strake, "/", line).all("x-strake-error") == [b"no_endpoint"]


@pytest.mark.parametrize("path", ["/", "/docs/", "/security/", "/nowhere/", "/v1x/", "/activity/", "/providers/v1/"])
def test_pages_stay_pages(path: str, strake: Strake) -> None:
    response = call(strake, path, "Cookie: a=strk_", "Referer: http://localhost/?strk_", method="GET")
    assert not response.all("x-strake-error")
    assert response.status in {200, 302, 404}


def test_management_api_answers_itself(strake: Strake) -> None:
    response = call(strake, "/api/v1/endpoints", f"Authorization: Bearer {_TOKEN}", method="GET")
    assert response.status == 401
    assert not response.all("x-strake-error")


def test_unknown_endpoint_is_another_error(strake: Strake, endpoint: Endpoint) -> None:
    response = call(strake, "/p/aaaaaaaaaaaa/v1/models", f"Authorization: Bearer {endpoint.token}")
    assert response.all("x-strake-error") == [b"unknown_endpoint"]
