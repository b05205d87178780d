"""Which request headers reach a provider. Most is tested over sockets in tests/proxy/test_exactness.py."""

from __future__ import annotations

import pytest

from proxy.http import headers
from tests.support.passing import passing


@pytest.mark.parametrize("key", [b"k", b"EMPTY", b"ollama"])
def test_short_key_of_a_local_server_drops_no_headers(key: bytes) -> None:
    sent = [(b"Content-Type", b"text/event-stream; charset=utf-8"), (b"Cache-Control", b"no-transform, max-age=0")]
    assert headers.for_client(sent, 0, bytearray(key), to_browser=False) == sent
    repeated = [(b"X-Echo", b"Bearer " + key)]
    assert repeated[0] not in headers.for_client(repeated, 0, bytearray(key), to_browser=False)


@pytest.mark.parametrize(
    "name", ["x-strake-client", "x_strake_client", "x-strake-part", "x-strake_dialog", "x-strake-"]
)
def test_no_header_of_ours_reaches_a_provider(name: str) -> None:
    sent = [(b"accept", b"*/*"), (name.encode(), b"192.0.2.1"), (b"x-strakes", b"1")]
    passed = headers.for_upstream(passing(sent), b"api.example.com", frozenset({b"authorization"}))
    assert passed == [(b"Host", b"api.example.com"), (b"accept", b"*/*"), (b"x-strakes", b"1")]
