"""No token of Strake reaches a provider: not in a header, not in the query, not in the path."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts import tokens
from accounts.models import ACCESS_TOKEN_PREFIX, LINK_TOKEN_PREFIX
from credentials.models import BEARER_TOKEN_PREFIX
from tests.support.raw import ask, get
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream


def throughout(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda token: token,
    "in a value": lambda token: f"Bearer {token}",
    "glued": lambda token: f"a{token}b",
    "after another": lambda token: f"strk_{'a' * 45}{token}",
    "underscore": lambda token: token.replace("_", "%5f"),
    "throughout": throughout,
    "twice": lambda token: throughout(throughout(token)),
    "three times": lambda token: token.replace("_", "%25255F"),
    "one letter": lambda token: token.replace("k", "%6B", 1),
}


def test_every_kind_of_token_is_known() -> None:
    assert set(tokens.PREFIXES) == {BEARER_TOKEN_PREFIX, ACCESS_TOKEN_PREFIX, LINK_TOKEN_PREFIX}


@pytest.mark.parametrize("prefix", tokens.PREFIXES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_token_in_a_header_is_not_forwarded(
    prefix: str, spelling: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    value = SPELLINGS[spelling](tokens.mint(prefix))
    request = get(endpoint, "/x", f"X-Other: {value}", f"Referer: https://a.org/?k={value}", "X-Kept: strk_and_pat_%2A")
    assert ask(strake.address, request).status == 200
    assert value.encode() not in upstream.last.raw_head
    assert upstream.last.header("x-kept") == b"strk_and_pat_%2A"


@pytest.mark.parametrize("prefix", tokens.PREFIXES)
@pytest.mark.parametrize("spelling", set(SPELLINGS) - {"in a value"})
def test_token_in_the_query_is_not_forwarded(
    prefix: str, spelling: str, strake: Strake, endpoint: Endpoint, upstream: Upstream
) -> None:
    value = SPELLINGS[spelling](tokens.mint(prefix))
    request = get(endpoint, f"/x?a=%2A&key=k{value}&{value}&b=x{value}y&c=strk_1&{value}={value}&d")
    assert ask(strake.address, request).status == 200
    assert upstream.last.query == b"a=%2A&c=strk_1&d"


@pytest.mark.parametrize("prefix", tokens.PREFIXES)
def test_token_in_the_path_is_refused(prefix: str, strake: Strake, endpoint: Endpoint, upstream: Upstream) -> None:
    token = tokens.mint(prefix)
    for path in (f"/v1/{token}", f"/x{quote(token)}y/z", f"/{throughout(token)}"):
        response = ask(strake.address, get(endpoint, path))
        assert (response.status, response.all("x-strake-error")) == (400, [b"token_in_path"])
        assert token.encode() not in response.raw
    assert not upstream.exchanges
    assert ask(strake.address, get(endpoint, f"/v1/{token[:-1]}")).status == 200, "not a token without its last digit"


@given(text=st.binary(max_size=200), prefix=st.sampled_from(tokens.PREFIXES), at=st.integers(0, 200))
def test_token_is_found_anywhere(text: bytes, prefix: str, at: int) -> None:
    token = tokens.mint(prefix).encode()
    assert tokens.contains(text[:at] + token + text[at:])
    assert not tokens.contains(text)
    assert not tokens.contains(text[:at] + token[:-1])
