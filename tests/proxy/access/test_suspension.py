"""A suspended person's tokens are refused like unknown ones, in every process, from the command's return on."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from accounts import tokens
from credentials.models import BEARER_TOKEN_PREFIX
from tests.support.running import Strake
from tests.support.upstream import Upstream, fixed


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_tokens_of_a_suspended_person_are_refused(
    database: str, run_strake: Callable[..., Strake], upstream: Upstream, request: pytest.FixtureRequest
) -> None:
    upstream.default = fixed(200, body=b"{}")
    environment = {}
    if database == "postgresql":
        environment = {"WEB_CONCURRENCY": "2", "DATABASE_URL": request.getfixturevalue("migrated_url")}
    strake = run_strake(**environment)
    endpoint = strake.connect(upstream.url)
    neighbour = strake.connect(upstream.url, email="bob@example.org")

    def ask(token: str = endpoint.token) -> httpx.Response:
        return httpx.get(f"{endpoint.url}/v1/models", headers={"Authorization": f"Bearer {token}"}, timeout=30)

    assert ask().status_code == 200
    strake.manage("suspend_person", "owner@example.org", check=True)
    received = len(upstream.exchanges)
    unknown = ask(tokens.mint(BEARER_TOKEN_PREFIX))
    for _ in range(8):  # more than there are workers
        refused = ask()
        assert (refused.status_code, refused.headers["x-strake-error"]) == (401, "invalid_token")
        assert refused.content == unknown.content
    assert len(upstream.exchanges) == received
    assert httpx.get(f"{neighbour.url}/v1/models", headers=neighbour.bearer, timeout=30).status_code == 200
    strake.manage("resume_person", "owner@example.org", check=True)
    assert ask().status_code == 200
