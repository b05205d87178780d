"""Cloud credentials: an access token is bought once, renewed in time by one process, and given up after a 401."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import httpx
import pytest

from proxy.upstream.renewals import Renewals
from tests.support.running import Endpoint, Strake, prepare_home
from tests.support.token_server import (
    CLIENT_SECRET,
    ENTRA_PARAMETERS,
    ENTRA_PATH,
    GOOGLE_PARAMETERS,
    GOOGLE_PATH,
    TokenServer,
    environment_of,
    key_body,
)
from tests.support.upstream import Upstream, eventually, fixed

KINDS = {
    "azure_entra": (ENTRA_PARAMETERS, CLIENT_SECRET, ENTRA_PATH),
    "google_service_account": (GOOGLE_PARAMETERS, key_body(), GOOGLE_PATH),
}


@pytest.fixture(scope="module")
def strake(
    tmp_path_factory: pytest.TempPathFactory, migrated_database: Path, _token_server: TokenServer
) -> Iterator[Strake]:
    """A Strake whose clouds are one server on loopback."""
    with Strake(
        prepare_home(tmp_path_factory.mktemp("clouds") / "strake", migrated_database), environment_of(_token_server)
    ) as running:
        yield running


def connect(strake: Strake, upstream: Upstream, kind: str = "azure_entra") -> Endpoint:
    parameters, key, _ = KINDS[kind]
    return strake.make("custom", upstream.url, key=key, kind=kind, parameters=parameters)


def call(endpoint: Endpoint) -> httpx.Response:
    return httpx.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer, timeout=60)


def sent(upstream: Upstream) -> str:
    """The access token of the last request that arrived."""
    value = upstream.last.header("authorization")
    assert value is not None
    return value.decode().removeprefix("Bearer ")


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.headers.get("x-strake-error", "")


# --- One process ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_first_request_buys_a_token(kind: str, strake: Strake, upstream: Upstream, token_server: TokenServer) -> None:
    endpoint = connect(strake, upstream, kind)
    assert call(endpoint).status_code == 200
    assert token_server.problems == []
    assert [exchange.path for exchange in token_server.exchanges] == [KINDS[kind][2]]
    assert [sent(upstream)] == token_server.given
    assert call(endpoint).status_code == 200
    assert len(token_server.exchanges) == 1, "the second request uses the stored one"
    assert [sent(upstream)] == token_server.given
    row = strake.call("derived", subdomain=endpoint.subdomain)
    assert (row["failure"], row["renewing_until"]) == ("", None)


def test_waiting_requests_share_one_renewal(strake: Strake, upstream: Upstream, token_server: TokenServer) -> None:
    endpoint = connect(strake, upstream)
    token_server.hold()
    with ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(call, endpoint) for _ in range(20)]
        eventually(lambda: token_server.exchanges)
        token_server.release()
        assert {one.result().status_code for one in calls} == {200}
    assert len(token_server.exchanges) == 1
    assert {exchange.header("authorization") for exchange in upstream.exchanges} == {
        f"Bearer {token_server.given[0]}".encode()
    }


def test_token_is_renewed_at_80_percent(strake: Strake, upstream: Upstream, token_server: TokenServer) -> None:
    endpoint = connect(strake, upstream)
    call(endpoint)
    strake.call("age_derived", subdomain=endpoint.subdomain, seconds=2800)  # of 3600
    call(endpoint)
    assert len(token_server.exchanges) == 1
    strake.call("age_derived", subdomain=endpoint.subdomain, seconds=100)
    token_server.hold()
    for _ in range(3):
        assert call(endpoint).status_code == 200, "nobody waits while the old one works"
        assert sent(upstream) == token_server.given[0]
    eventually(lambda: len(token_server.exchanges) == 2)
    token_server.release()
    eventually(lambda: call(endpoint).status_code == 200 and sent(upstream) == token_server.given[-1] != "")
    assert len(token_server.given) == 2
    assert len(token_server.exchanges) == 2


def test_expired_token_is_not_sent(strake: Strake, upstream: Upstream, token_server: TokenServer) -> None:
    endpoint = connect(strake, upstream)
    call(endpoint)
    strake.call("age_derived", subdomain=endpoint.subdomain, seconds=3590)
    assert call(endpoint).status_code == 200
    assert sent(upstream) == token_server.given[1]


def test_next_request_after_a_401_has_another(strake: Strake, upstream: Upstream, token_server: TokenServer) -> None:
    endpoint = connect(strake, upstream)
    call(endpoint)
    upstream.on("/v1/models", fixed(401, body=b"expired"))
    response = call(endpoint)
    assert (response.status_code, response.content) == (401, b"expired")
    assert len(upstream.exchanges) == 2, "nothing is sent again"
    upstream.on("/v1/models", fixed(200))
    assert call(endpoint).status_code == 200
    assert sent(upstream) == token_server.given[1]


def test_401_to_every_token_ends_the_renewals(strake: Strake, upstream: Upstream, token_server: TokenServer) -> None:
    endpoint = connect(strake, upstream)
    upstream.on("/v1/models", fixed(401))
    for _ in range(12):
        assert call(endpoint).status_code == 401
    assert len(token_server.exchanges) <= 4


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        ((401, "invalid_client"), "cloud_secret_refused"),
        ((400, "invalid_grant"), "cloud_secret_refused"),
        ((400, "something_else"), "token_server_unavailable"),
        ((503, "temporarily_unavailable"), "token_server_unavailable"),
    ],
)
def test_failure_is_a_502(
    failure: tuple[int, str], code: str, strake: Strake, upstream: Upstream, token_server: TokenServer
) -> None:
    endpoint = connect(strake, upstream)
    token_server.failure = failure
    response = call(endpoint)
    assert error_of(response) == (502, code)
    assert CLIENT_SECRET not in response.text
    assert error_of(call(endpoint)) == (502, code)
    assert len(token_server.exchanges) == 1, "a failure is told without another attempt"
    assert upstream.exchanges == []
    row = strake.call("derived", subdomain=endpoint.subdomain)
    assert row["failure"] == (failure[1] if code == "cloud_secret_refused" else row["failure"])
    assert row["failure"] in {"invalid_client", "invalid_grant", "invalid_response", "server_error"}
    token_server.failure = None
    strake.call("age_derived", subdomain=endpoint.subdomain, seconds=61)
    assert call(endpoint).status_code == 200
    assert strake.call("derived", subdomain=endpoint.subdomain)["failure"] == ""


def test_failed_renewal_leaves_the_old_token(strake: Strake, upstream: Upstream, token_server: TokenServer) -> None:
    endpoint = connect(strake, upstream)
    call(endpoint)
    strake.call("age_derived", subdomain=endpoint.subdomain, seconds=3000)
    token_server.failure = (401, "invalid_client")
    for _ in range(3):
        assert call(endpoint).status_code == 200
        eventually(lambda: strake.call("derived", subdomain=endpoint.subdomain)["failure"] == "invalid_client")
    assert sent(upstream) == token_server.given[0]
    assert len(token_server.exchanges) == 2


def test_replaced_key_buys_another_token(strake: Strake, upstream: Upstream, token_server: TokenServer) -> None:
    endpoint = connect(strake, upstream)
    call(endpoint)
    before = strake.call("derived", subdomain=endpoint.subdomain)
    strake.call("reseal", subdomain=endpoint.subdomain, key=CLIENT_SECRET)
    assert strake.call("derived", subdomain=endpoint.subdomain) == {}
    # A row that came back, as from a process that was renewing meanwhile, opens no more.
    strake.call("restore_derived", **before)
    assert call(endpoint).status_code == 200
    assert sent(upstream) == token_server.given[1]


@pytest.mark.parametrize("end", ["revoke", "pause", "delete"])
def test_ended_access_renews_nothing(end: str, strake: Strake, upstream: Upstream, token_server: TokenServer) -> None:
    endpoint = connect(strake, upstream)
    strake.call(end, **({"token_id": endpoint.token_id} if end == "revoke" else {"subdomain": endpoint.subdomain}))
    assert call(endpoint).status_code in {401, 403, 410}
    assert token_server.exchanges == []


def test_client_that_leaves_takes_nothing_away(strake: Strake, upstream: Upstream, token_server: TokenServer) -> None:
    endpoint = connect(strake, upstream)
    token_server.hold()
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(endpoint.url, headers=endpoint.bearer, timeout=0.5)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(call, endpoint)
        token_server.release()
        assert other.result().status_code == 200
    assert len(token_server.exchanges) == 1


def test_moved_token_does_not_open(strake: Strake, upstream: Upstream, token_server: TokenServer) -> None:
    endpoint, other = connect(strake, upstream), connect(strake, upstream)
    call(endpoint)
    call(other)
    mine, theirs = (strake.call("derived", subdomain=one.subdomain) for one in (endpoint, other))
    moved = theirs | {name: mine[name] for name in ("credential_id", "source_iv")}
    strake.call("restore_derived", **moved)
    assert error_of(call(endpoint)) == (503, "needs_key_again")
    assert len(upstream.exchanges) == 2


async def test_one_process_has_one_renewal_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten requests that wait must not read the database ten times as often as one."""
    renewals, free, started = Renewals(cast(Any, None)), asyncio.Event(), []

    async def obtain(*_: object) -> None:
        started.append(1)
        await free.wait()

    monkeypatch.setattr(renewals, "_obtain", obtain)
    routes = [cast(Any, SimpleNamespace(credential_id=UUID(int=number), iv=b"i")) for number in (1, 1, 1, 2)]
    tasks = [renewals._start(route, cast(Any, None)) for route in routes]
    free.set()
    await asyncio.gather(*tasks)
    assert len(started) == 2
    await asyncio.sleep(0)
    assert not renewals._tasks


# --- Several processes ---------------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_one_of_two_processes_renews(
    migrated_url: str, run_strake: Any, upstream: Upstream, token_server: TokenServer
) -> None:
    strake = run_strake(**environment_of(token_server, WEB_CONCURRENCY="2", DATABASE_URL=migrated_url))
    endpoint = connect(strake, upstream)
    with ThreadPoolExecutor(16) as pool:
        token_server.hold()
        calls = [pool.submit(call, endpoint) for _ in range(16)]
        eventually(lambda: token_server.exchanges)
        token_server.release()
        assert {one.result().status_code for one in calls} == {200}
        assert len(token_server.exchanges) == 1
        strake.call("age_derived", subdomain=endpoint.subdomain, seconds=3000)
        token_server.hold()
        assert {response.status_code for response in pool.map(call, [endpoint] * 32)} == {200}
        eventually(lambda: len(token_server.exchanges) == 2)
        assert {exchange.header("authorization") for exchange in upstream.exchanges} == {
            f"Bearer {token_server.given[0]}".encode()
        }
        token_server.release()
        eventually(lambda: call(endpoint).status_code == 200 and sent(upstream) == token_server.given[-1])
    assert len(token_server.exchanges) == 2
