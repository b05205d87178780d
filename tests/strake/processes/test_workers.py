"""Concurrent requests to several workers, and a Redis outage under load."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.running import Strake
from tests.support.services import RedisServer
from tests.support.upstream import Upstream

_BOTH = [pytest.mark.postgres, pytest.mark.redis]
POSTGRESQL = pytest.mark.parametrize("server", [pytest.param("postgresql", marks=_BOTH)], indirect=True)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=_BOTH)])
def server(request: pytest.FixtureRequest, run_strake: Callable[..., Strake]) -> Strake:
    """One worker on SQLite; two on PostgreSQL and Redis."""
    if request.param == "sqlite":
        return run_strake()
    database, redis = request.getfixturevalue("migrated_url"), request.getfixturevalue("own_redis").url
    return run_strake(DATABASE_URL=database, REDIS_URL=redis, WEB_CONCURRENCY="2")


class Browser:
    """A browser that opens a sign-in link."""

    def __init__(self, server: Strake) -> None:
        self.client = httpx.Client(base_url=server.url, headers={"Host": f"localhost:{server.port}"}, timeout=60)
        self.form: dict[str, str] = {}

    def open(self, link: str) -> None:
        self.client.get(urlsplit(link).path)
        page = self.client.get("/signin/confirm/").text
        self.form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))

    def confirm(self) -> int:
        return self.client.post("/signin/confirm/", data=self.form).status_code


@pytest.fixture
def browsers(server: Strake) -> Iterator[list[Browser]]:
    """Fifty browsers."""
    opened = [Browser(server) for _ in range(50)]
    yield opened
    for browser in opened:
        browser.client.close()


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Call `work(0)` to `work(count - 1)` at the same moment, each in a thread."""
    barrier = threading.Barrier(count)

    def run(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_concurrent_rotations_leave_one_valid_token(server: Strake, upstream: Upstream) -> None:
    endpoint = server.connect(upstream.url)
    created = server.manage("create_access_token", "--email", "owner@example.org", "--label", "script", check=True)
    url = f"{server.url}/api/v1/endpoints/{endpoint.subdomain}/tokens/{endpoint.token_id}/rotate"
    headers = {"Authorization": f"Bearer {created.stdout.strip()}", "Host": f"localhost:{server.port}"}
    with httpx.Client(timeout=60, headers=headers) as script:
        responses = at_once(16, lambda _: script.post(url))
    assert {response.status_code for response in responses} == {HTTPStatus.OK}, [
        response.text for response in responses
    ]
    plaintexts = {response.json()["token"]["plaintext"] for response in responses}
    assert len(plaintexts) == 16
    accepted = [
        httpx.get(f"{endpoint.url}/v1/models", headers={"Authorization": f"Bearer {token}"}).status_code
        for token in (*plaintexts, endpoint.token)
    ]
    assert sorted(accepted) == [HTTPStatus.OK] + [HTTPStatus.UNAUTHORIZED] * 16


@POSTGRESQL
def test_concurrent_confirmations_create_one_session(server: Strake, browsers: list[Browser]) -> None:
    link = server.call("signin_link", email="alice@example.org")["link"]
    for browser in browsers:
        browser.open(link)
    statuses = at_once(50, lambda number: browsers[number].confirm())
    assert sorted(statuses) == [HTTPStatus.SEE_OTHER] + [HTTPStatus.GONE] * 49
    signed_in = [browser for browser in browsers if browser.client.get("/settings/").status_code == HTTPStatus.OK]
    assert len(signed_in) == 1


@POSTGRESQL
def test_redis_outage_signs_nobody_out(server: Strake, browsers: list[Browser], own_redis: RedisServer) -> None:
    browsers = browsers[:6]
    for number, browser in enumerate(browsers):
        browser.open(server.call("signin_link", email=f"person{number}@example.org")["link"])
        assert browser.confirm() == HTTPStatus.SEE_OTHER
    cookies = [browser.client.cookies[server.session_cookie] for browser in browsers]
    seen: list[httpx.Response] = []
    stop = threading.Event()

    def keep_loading(browser: Browser) -> None:
        while not stop.is_set():
            seen.append(browser.client.get("/endpoints/"))

    def wait_for(status: int, times: int) -> None:
        begin, end = len(seen), time.monotonic() + 60
        while sum(response.status_code == status for response in seen[begin:]) < times:
            assert time.monotonic() < end, f"no {status} response"
            time.sleep(0.05)

    with ThreadPoolExecutor(len(browsers)) as pool:
        running = [pool.submit(keep_loading, browser) for browser in browsers]
        try:
            wait_for(HTTPStatus.OK, 30)
            own_redis.stop()
            wait_for(HTTPStatus.SERVICE_UNAVAILABLE, 30)
            own_redis.start()
            wait_for(HTTPStatus.OK, 30)
        finally:
            stop.set()
        for future in running:
            future.result()
    assert {response.status_code for response in seen} == {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}
    for response in seen:
        set_cookies = response.headers.get_list("set-cookie")
        assert not [line for line in set_cookies if line.startswith(server.session_cookie)]
        assert not (set_cookies and response.status_code == HTTPStatus.SERVICE_UNAVAILABLE)
    assert [browser.client.cookies[server.session_cookie] for browser in browsers] == cookies
    assert {browser.client.get("/settings/").status_code for browser in browsers} == {HTTPStatus.OK}
