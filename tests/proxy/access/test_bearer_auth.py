"""The client's token is found in any position where SDKs send an API key, and is never forwarded."""

from __future__ import annotations

import itertools

import pytest

from accounts import tokens
from credentials.models import BEARER_TOKEN_PREFIX
from proxy.access import bearer_auth
from proxy.errors import AmbiguousToken, InvalidToken, MissingToken
from tests.support.raw import ask
from tests.support.running import KEY, Endpoint, Strake
from tests.support.upstream import Upstream

POSITIONS = {
    "bearer": ("Authorization: Bearer {}", ""),
    "bearer in lower case": ("authorization: bearer {}", ""),
    "bearer with spaces": ("Authorization:   Bearer   {}  ", ""),
    "bare authorization": ("Authorization: {}", ""),
    "x-api-key": ("X-Api-Key: {}", ""),
    "api-key": ("api-key: {}", ""),
    "x-goog-api-key": ("x-goog-api-key: {}", ""),
    "key": ("", "key={}"),
    "key behind others": ("", "alt=sse&key={}&b=1"),
}
PAIRS = list(itertools.permutations(["bearer", "x-api-key", "api-key", "x-goog-api-key", "key"], 2))
DUMMIES = ["dummy", "sk-ant-stale", "", "strk_mistyped", "Bearer", "strk_" + "0" * 49]


def request(endpoint: Endpoint, *placed: tuple[str, str]) -> bytes:
    """Build a request with a value in each position."""
    lines = [POSITIONS[where][0].format(value) for where, value in placed if POSITIONS[where][0]]
    query = "&".join(POSITIONS[where][1].format(value) for where, value in placed if POSITIONS[where][1])
    head = [f"GET {endpoint.path}/x{f'?{query}' if query else ''} HTTP/1.1", "Host: localhost", *lines]
    return ("\r\n".join(head) + "\r\n\r\n").encode()


def assert_only_the_real_key_arrived(upstream: Upstream, endpoint: Endpoint) -> None:
    arrived = upstream.last
    assert arrived.header("authorization") == f"Bearer {KEY}".encode()
    assert arrived.header("x-api-key") is None
    assert arrived.header("api-key") is None
    assert arrived.header("x-goog-api-key") is None
    assert b"strk_" not in arrived.raw_head
    assert arrived.raw_head.count(KEY.encode()) == 1
    assert arrived.headers[-1][0].lower() == b"authorization"


@pytest.mark.parametrize("where", POSITIONS)
def test_token_is_found_in_every_position(where: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    assert ask(strake.address, request(endpoint, (where, endpoint.token))).status == 200
    assert_only_the_real_key_arrived(upstream, endpoint)
    assert upstream.last.query == (b"alt=sse&b=1" if where == "key behind others" else b"")


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_same_token_twice_passes(one: str, other: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    raw = request(endpoint, (one, endpoint.token), (other, endpoint.token))
    assert ask(strake.address, raw).status == 200
    assert_only_the_real_key_arrived(upstream, endpoint)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_different_tokens_are_refused(
    one: str, other: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    """Even if one is valid: it is not clear which token's limits apply."""
    raw = request(endpoint, (one, endpoint.token), (other, tokens.mint(BEARER_TOKEN_PREFIX)))
    answer = ask(strake.address, raw)
    assert (answer.status, answer.all("x-strake-error")) == (400, [b"ambiguous_token"])
    assert not upstream.exchanges


@pytest.mark.parametrize(("real", "stale"), PAIRS)
@pytest.mark.parametrize("dummy", DUMMIES)
def test_dummy_next_to_the_token_is_ignored(
    real: str, stale: str, dummy: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    raw = request(endpoint, (real, endpoint.token), (stale, dummy))
    assert ask(strake.address, raw).status == 200
    if stale == "key":
        # A parameter of this name that is not a Strake token can be anything, so it stays, except for Gemini.
        assert upstream.last.query == f"key={dummy}".encode()
    else:
        assert_only_the_real_key_arrived(upstream, endpoint)


def test_dummy_key_parameter_is_not_sent_to_gemini(strake: Strake, upstream: Upstream) -> None:
    """Google would use it instead of the header. Tests do not call Gemini, so this calls the function."""
    assert bearer_auth.without_tokens(b"alt=sse&key=dummy&key=&b=1", drop_any_key=True) == b"alt=sse&b=1"
    assert bearer_auth.without_tokens(b"key=dummy", drop_any_key=True) == b""
    assert bearer_auth.without_tokens(b"monkey=1&keys=2", drop_any_key=True) == b"monkey=1&keys=2"


@pytest.mark.parametrize(
    "line",
    ["X-My-Key: {}", "X-Litellm-Api-Key: Bearer {}", "Ocp-Apim-Subscription-Key: {}", "Referer: https://a/?k={}",
     "X_Api_Key: {}", "x-api_key: {}", "X-Goog_Api-Key: {}", "Proxy-Authorization: Bearer {}", "Cookie: t={}"],
)  # fmt: skip
def test_token_is_removed_from_any_header(line: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    raw = request(endpoint, ("bearer", endpoint.token))[:-2] + line.format(endpoint.token).encode() + b"\r\n\r\n"
    assert ask(strake.address, raw).status == 200
    assert_only_the_real_key_arrived(upstream, endpoint)


@pytest.mark.parametrize("name", ["api_key", "access_token", "%6bey", "KEY", "x"])
def test_token_is_removed_from_any_parameter(name: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    raw = request(endpoint, ("bearer", endpoint.token)).replace(b"/x ", f"/x?a=1&{name}={endpoint.token} ".encode())
    assert ask(strake.address, raw).status == 200
    assert upstream.last.query == b"a=1"
    assert_only_the_real_key_arrived(upstream, endpoint)


@pytest.mark.parametrize(
    ("placed", "code"),
    [
        ([], b"missing_token"),
        ([("bearer", "")], b"invalid_token"),
        ([("x-api-key", "")], b"missing_token"),
        ([("bearer", "dummy")], b"invalid_token"),
        ([("bearer", "strk_mistyped")], b"invalid_token"),
        ([("x-api-key", tokens.mint(BEARER_TOKEN_PREFIX))], b"invalid_token"),
        ([("key", tokens.mint("pat_"))], b"invalid_token"),
        ([("bearer", "dummy"), ("x-api-key", "other")], b"invalid_token"),
    ],
)
def test_invalid_token_is_refused(
    placed: list[tuple[str, str]], code: bytes, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    answer = ask(strake.address, request(endpoint, *placed))
    assert (answer.status, answer.all("x-strake-error")) == (401, [code])
    assert not upstream.exchanges


def test_token_of_another_endpoint_is_refused(strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    other = strake.connect(upstream.url)
    answer = ask(strake.address, request(endpoint, ("bearer", other.token)))
    assert (answer.status, answer.all("x-strake-error")) == (401, [b"invalid_token"])
    assert not upstream.exchanges


@pytest.mark.parametrize(
    ("header", "template"),
    [("x-api-key", "{{secret}}"), ("X-Goog-Api-Key", "{{secret}}"), ("api-key", "{{secret}}"),
     ("X-Custom-Auth", "Token {{secret}} v1"), ("Authorization", "Basic {{secret}}")],
)  # fmt: skip
@pytest.mark.parametrize("where", ["bearer", "x-api-key", "key"])
def test_real_key_is_sent_in_the_configured_header(
    header: str, template: str, where: str, strake: Strake, upstream: Upstream
) -> None:
    endpoint = strake.connect(upstream.url, header_name=header, header_template=template)
    raw = request(endpoint, (where, endpoint.token))[:-2] + f"{header}: forged\r\n".encode()
    raw += f"{header.replace('-', '_')}: forged\r\nConnection: {header}, close\r\n\r\n".encode()
    answer = ask(strake.address, raw)
    assert answer.status == 200
    assert upstream.last.header(header) == template.replace("{{secret}}", KEY).encode()
    assert b"forged" not in upstream.last.raw_head
    assert upstream.last.raw_head.count(KEY.encode()) == 1
    assert b"strk_" not in upstream.last.raw_head


# --- WebSocket subprotocols (handshakes only) ------------------------------------------------------------


def test_token_is_found_among_subprotocols() -> None:
    token = tokens.mint(BEARER_TOKEN_PREFIX)
    line = f"realtime, openai-insecure-api-key.{token}, openai-beta.realtime-v1".encode()
    assert bearer_auth.find_digest([(b"sec-websocket-protocol", line)], b"") == tokens.digest(token)


@pytest.mark.parametrize("value", [b"", b"realtime", b"openai-insecure-api-key.dummy"])
def test_subprotocols_without_a_token_are_refused(value: bytes) -> None:
    with pytest.raises((InvalidToken, MissingToken)):
        bearer_auth.find_digest([(b"sec-websocket-protocol", value)], b"")


def test_different_subprotocol_token_is_ambiguous() -> None:
    one, other = tokens.mint(BEARER_TOKEN_PREFIX), tokens.mint(BEARER_TOKEN_PREFIX)
    headers = [
        (b"authorization", b"Bearer " + one.encode()),
        (b"sec-websocket-protocol", b"openai-insecure-api-key." + other.encode()),
    ]
    with pytest.raises(AmbiguousToken):
        bearer_auth.find_digest(headers, b"")
