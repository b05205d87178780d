"""What several do at the same moment, and what an outage in the middle of it does, on running servers."""

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

from tests.conftest import OwnRedis
from tests.running import Strake
from tests.upstream import Upstream

SESSION = "strake-session"
_BOTH = [pytest.mark.postgres, pytest.mark.redis]
POSTGRESQL = pytest.mark.parametrize("server", [pytest.param("postgresql", marks=_BOTH)], indirect=True)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = OwnRedis(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=_BOTH)])
def server(request: pytest.FixtureRequest, run_strake: Callable[..., Strake]) -> Strake:
    """One worker on SQLite; two on PostgreSQL and Redis."""
    if request.param == "sqlite":
        return run_strake()
    database, redis = request.getfixturevalue("postgres_url"), request.getfixturevalue("own_redis").url
    return run_strake(DATABASE_URL=database, REDIS_URL=redis, WEB_CONCURRENCY="2")


class Browser:
    """A browser of somebody who opens the link in a mail."""

    def __init__(self, server: Strake) -> None:
        self.client = httpx.Client(base_url=server.url, headers={"Host": f"localhost:{server.port}"}, timeout=30)
        self.form: dict[str, str] = {}

    def open(self, link: str) -> None:
        self.client.get(urlsplit(link).path)
        page = self.client.get("/signin/confirm/").text
        self.form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))

    def confirm(self) -> int:
        return self.client.post("/signin/confirm/", data=self.form).status_code


@pytest.fixture
def browsers(server: Strake) -> Iterator[list[Browser]]:
    """Fifty of them."""
    opened = [Browser(server) for _ in range(50)]
    yield opened
    for browser in opened:
        browser.client.close()


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    barrier = threading.Barrier(count)

    def run(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_rotations_at_once_leave_exactly_one_valid_token(server: Strake, upstream: Upstream):
    endpoint = server.connect(upstream.url)
    made = server.manage("create_access_token", "--email", "owner@example.org", "--label", "script", check=True)
    url = f"{server.url}/api/v1/endpoints/{endpoint.subdomain}/tokens/{endpoint.token_id}/rotate"
    headers = {"Authorization": f"Bearer {made.stdout.strip()}", "Host": f"localhost:{server.port}"}
    with httpx.Client(timeout=30, headers=headers) as script:
        answers = at_once(16, lambda _: script.post(url))
    assert {answer.status_code for answer in answers} == {HTTPStatus.OK}, [answer.text for answer in answers]
    plaintexts = {answer.json()["token"]["plaintext"] for answer in answers}
    assert len(plaintexts) == 16
    accepted = [
        httpx.get(f"{endpoint.url}/v1/models", headers={"Authorization": f"Bearer {token}"}).status_code
        for token in (*plaintexts, endpoint.token)
    ]
    assert sorted(accepted) == [HTTPStatus.OK] + [HTTPStatus.UNAUTHORIZED] * 16


@POSTGRESQL
def test_fifty_confirmations_at_once_give_one_session(server: Strake, browsers: list[Browser]):
    link = server.call("signin_link", email="alice@example.org")["link"]
    for browser in browsers:
        browser.open(link)
    statuses = at_once(50, lambda number: browsers[number].confirm())
    assert sorted(statuses) == [HTTPStatus.SEE_OTHER] + [HTTPStatus.GONE] * 49
    inside = [browser for browser in browsers if browser.client.get("/settings/").status_code == HTTPStatus.OK]
    assert len(inside) == 1


@POSTGRESQL
def test_redis_killed_under_load_signs_nobody_out(server: Strake, browsers: list[Browser], own_redis: OwnRedis):
    browsers = browsers[:6]
    for number, browser in enumerate(browsers):
        browser.open(server.call("signin_link", email=f"person{number}@example.org")["link"])
        assert browser.confirm() == HTTPStatus.SEE_OTHER
    cookies = [browser.client.cookies[SESSION] for browser in browsers]
    seen: list[httpx.Response] = []
    over = threading.Event()

    def go_on(browser: Browser) -> None:
        while not over.is_set():
            seen.append(browser.client.get("/endpoints/"))

    def until_seen(status: int, times: int) -> None:
        begin, end = len(seen), time.monotonic() + 30
        while sum(answer.status_code == status for answer in seen[begin:]) < times:
            assert time.monotonic() < end, f"{status} does not come"
            time.sleep(0.05)

    with ThreadPoolExecutor(len(browsers)) as pool:
        running = [pool.submit(go_on, browser) for browser in browsers]
        try:
            until_seen(HTTPStatus.OK, 30)
            own_redis.stop()
            until_seen(HTTPStatus.SERVICE_UNAVAILABLE, 30)
            own_redis.start()
            until_seen(HTTPStatus.OK, 30)
        finally:
            over.set()
        for one in running:
            one.result()
    assert {answer.status_code for answer in seen} == {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}
    for answer in seen:
        set_cookies = answer.headers.get_list("set-cookie")
        assert not [line for line in set_cookies if line.startswith(SESSION)]
        assert not (set_cookies and answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE)
    assert [browser.client.cookies[SESSION] for browser in browsers] == cookies
    assert {browser.client.get("/settings/").status_code for browser in browsers} == {HTTPStatus.OK}
