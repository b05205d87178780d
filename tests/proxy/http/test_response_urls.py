"""URLs of the destination in response headers lead back through the endpoint. All others stay as they are."""

from __future__ import annotations

import subprocess

import anthropic
import httpx
import openai
import pytest
import requests

from proxy.http.response_urls import _Site, _through_endpoint
from proxy.upstream.origin import destination
from tests.support.running import KEY, Endpoint, Strake
from tests.support.upstream import Exchange, Upstream, fixed

SUB = "k3v9q2m7x1ab"


def mapped(url: str, destination_url: str = "https://api.example.com/base", *, own_host: bool = False) -> str | None:
    origin, _, base_path = destination(destination_url)
    endpoint_url, prefix = f"http://strake.example/p/{SUB}", f"/p/{SUB}"
    if own_host:
        endpoint_url, prefix = f"https://{SUB}.endpoints.example", ""
    value = _through_endpoint(url.encode("latin-1"), _Site(origin, base_path, endpoint_url.encode(), prefix.encode()))
    return None if value is None else value.decode("latin-1")


@pytest.mark.parametrize(
    ("url", "path_form", "own_host"),
    [
        ("https://api.example.com/base/v1/x?a=1#b", f"http://strake.example/p/{SUB}/v1/x?a=1#b", "/v1/x?a=1#b"),
        ("https://api.example.com:443/base/v1/x", f"http://strake.example/p/{SUB}/v1/x", "/v1/x"),
        ("HTTPS://API.Example.COM/base/v1/x", f"http://strake.example/p/{SUB}/v1/x", "/v1/x"),
        ("https://api.example.com./base/v1/x", f"http://strake.example/p/{SUB}/v1/x", "/v1/x"),
        ("//api.example.com/base/v1/x", f"http://strake.example/p/{SUB}/v1/x", "/v1/x"),
        ("https://api.example.com/base", f"http://strake.example/p/{SUB}", ""),
        ("https://api.example.com/base?a=1", f"http://strake.example/p/{SUB}?a=1", "?a=1"),
    ],
)
def test_absolute_urls_of_the_destination(url: str, path_form: str, own_host: str) -> None:
    assert mapped(url) == path_form
    assert mapped(url, own_host=True) == f"https://{SUB}.endpoints.example{own_host}"


def test_absolute_paths_get_the_prefix_of_the_path_form() -> None:
    assert mapped("/base/v1/x?a=1") == f"/p/{SUB}/v1/x?a=1"
    assert mapped("/base/v1/x?a=1", own_host=True) == "/v1/x?a=1"
    assert mapped("/base", own_host=True) == "/"
    assert mapped("/v1/x", "https://api.example.com") == f"/p/{SUB}/v1/x"
    assert mapped("/v1/x", "https://api.example.com", own_host=True) == "/v1/x"


@pytest.mark.parametrize(
    "url",
    [
        "models/",
        "../models",
        "?after=x",
        "#x",
        "",
        "https://other.example/base/v1",
        "http://api.example.com/base/v1",
        "https://api.example.com:8443/base/v1",
        "https://api.example.com@evil.example/base/v1",
        "https://user@api.example.com/base/v1",
        "https://api.example.com:x@evil.example/base/v1",
        "https://api.example.com\\@evil.example/base/v1",
        "https:\\\\api.example.com/base/v1",
        "https://api.example.com.evil.example/base/v1",
        "https://evilapi.example.com/base/v1",
        "https://api.example.com:99999/base/v1",
        "https:/api.example.com/base/v1",
        "https:api.example.com/base/v1",
        "https://[api.example.com]/base/v1",
        "https://api.example.com%2f@evil.example/base/v1",
        "https://api.example.com /base/v1",
        "https://api.example.com\t/base/v1",
        "https://api.\xe9xample.com/base/v1",
        "//evil.example/base/v1",
        "///api.example.com/base/v1",
        "/\\api.example.com/base/v1",
        "data:text/plain,x",
        "javascript:alert(1)",
    ],
)
def test_other_urls_stay_as_they_are(url: str) -> None:
    assert mapped(url) == url
    assert mapped(url, own_host=True) == url


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/",
        "https://api.example.com/other",
        "https://api.example.com/basement",
        "https://api.example.com/Base/v1",
        "https://api.example.com/base/../admin",
        "https://api.example.com/base/%2e%2e/admin",
        "https://api.example.com/base//admin",
        "https://api.example.com/base/_strake/uploads/x",
        "/login",
        "/base/../login",
    ],
)
def test_unreachable_urls_of_the_destination_are_dropped(url: str) -> None:
    """The client would take its token to the provider, or to a page of Strake."""
    assert mapped(url) is None
    assert mapped(url, own_host=True) is None


# --- Through a running Strake ----------------------------------------------------------------------------------------


@pytest.fixture
def moved(upstream: Upstream) -> Upstream:
    """A provider that moves /v1/models to /v1/models/moved."""
    target = f"{upstream.url}/v1/models/moved"
    headers = [("Location", target), ("Operation-Location", target), ("Content-Location", target)]
    upstream.on("/v1/models", fixed(307, [*headers, ("Link", f'<{target}?page=2>; rel="next"')]))

    async def models(exchange: Exchange) -> None:
        await exchange.respond(200, [("Content-Type", "application/json")], b'{"object": "list", "data": []}')

    upstream.on("/v1/models/moved", models)
    return upstream


def test_every_header_leads_back(strake: Strake, endpoint: Endpoint, moved: Upstream) -> None:
    response = httpx.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer)
    url = f"http://localhost:{strake.port}{endpoint.path}/v1/models/moved"
    assert response.status_code == 307
    for name in ("location", "operation-location", "content-location"):
        assert response.headers[name] == url
    assert response.headers["link"] == f'<{url}?page=2>; rel="next"'
    assert moved.url not in str(response.headers)


def test_the_host_header_decides_nothing(strake: Strake, endpoint: Endpoint, moved: Upstream) -> None:
    headers = {**endpoint.bearer, "Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    response = httpx.get(f"{endpoint.url}/v1/models", headers=headers)
    assert response.headers["location"].startswith(f"http://localhost:{strake.port}/")


@pytest.mark.parametrize("client", ["httpx", "requests", pytest.param("curl", marks=pytest.mark.curl)])
@pytest.mark.parametrize("absolute", [True, False])
def test_clients_that_follow_stay_at_strake(
    strake: Strake, endpoint: Endpoint, moved: Upstream, client: str, absolute: bool
) -> None:
    if not absolute:
        moved.on("/v1/models", fixed(307, [("Location", "/v1/models/moved")]))
    url = f"http://localhost:{strake.port}{endpoint.path}/v1/models"
    key = {"x-api-key": endpoint.token}
    if client == "httpx":
        assert httpx.get(url, headers=key, follow_redirects=True).status_code == 200
    elif client == "requests":
        assert requests.get(url, headers=key, timeout=30).status_code == 200
    else:
        command = ["curl", "-fsSL", "--max-time", "30", "-H", f"x-api-key: {endpoint.token}", url]
        subprocess.run(command, check=True, capture_output=True)
    assert [exchange.path for exchange in moved.exchanges] == ["/v1/models", "/v1/models/moved"]
    for exchange in moved.exchanges:
        assert exchange.header("authorization") == f"Bearer {KEY}".encode()
        assert endpoint.token.encode() not in exchange.raw_head


def test_sdks_that_follow_stay_at_strake(strake: Strake, endpoint: Endpoint, moved: Upstream) -> None:
    url = f"http://localhost:{strake.port}{endpoint.path}"
    with openai.OpenAI(base_url=f"{url}/v1", api_key=endpoint.token, max_retries=0) as client:
        assert list(client.models.list()) == []
    with anthropic.Anthropic(base_url=url, api_key=endpoint.token, max_retries=0) as claude:
        assert list(claude.models.list()) == []
    assert len(moved.exchanges) == 4
    assert not any(endpoint.token.encode() in exchange.raw_head for exchange in moved.exchanges)


def test_look_alike_location_passes_unchanged(endpoint: Endpoint, upstream: Upstream) -> None:
    look_alike = upstream.url.replace("http://", "http://user@") + "/v1"
    upstream.on("/v1/models", fixed(307, [("Location", look_alike)]))
    response = httpx.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer)
    assert response.headers["location"] == look_alike
