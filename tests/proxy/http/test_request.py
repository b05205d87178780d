"""What a request says of its client and its endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.http.request import ProxyRequest
from proxy.http.target import build_target
from tests.support.exchanges import exchange_of, get


async def address_of(*headers: tuple[bytes, bytes], internal: bool = False) -> str:
    return str(ProxyRequest(exchange_of(get(b"/p/abcdefghijkl/x", *headers), is_internal=internal)).address)


async def test_client_cannot_name_its_address() -> None:
    assert await address_of((b"x-strake-client", b"198.51.100.1")) == "192.0.2.1"


async def test_client_behind_a_proxy_cannot_name_its_address(settings: Any) -> None:
    settings.STRAKE_TRUSTED_PROXIES = 1
    headers = [(b"x-strake-client", b"198.51.100.1"), (b"x-forwarded-for", b"203.0.113.1")]
    assert await address_of(*headers) == "203.0.113.1"


@pytest.mark.parametrize(
    ("value", "address"),
    [(b"198.51.100.1", "198.51.100.1"), (b"2001:db8::1", "2001:db8::1"), (b"nonsense", "None"), (b"\xff", "None")],
)
async def test_web_process_names_the_address(value: bytes, address: str, settings: Any) -> None:
    settings.STRAKE_TRUSTED_PROXIES = 1
    headers = [(b"x-strake-client", value), (b"x-forwarded-for", b"203.0.113.1")]
    assert await address_of(*headers, internal=True) == address


async def test_web_process_without_an_address_has_none() -> None:
    assert await address_of(internal=True) == "None"


@pytest.mark.parametrize(
    ("target", "path", "upstream"),
    [(b"/", b"", b"/mcp"), (b"/?a=1", b"", b"/mcp?a=1"), (b"/x", b"/x", b"/mcp/x"), (b"/x/", b"/x/", b"/mcp/x/")],
)
async def test_bare_url_of_an_own_host_is_the_destination(
    target: bytes, path: bytes, upstream: bytes, settings: Any
) -> None:
    """Clients send "/" for a URL without a path."""
    settings.STRAKE_PROXY_DOMAIN = "proxy.example"
    request = ProxyRequest(exchange_of(get(target, host=b"abcdefghijkl.proxy.example:8000")))
    assert (request.subdomain, request.path) == ("abcdefghijkl", path)
    assert build_target(b"/mcp", request.path, request.query) == upstream
