"""Connections that are being opened: a share for each owner, and room for the others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from credentials.resolver import TooManyLookUps
from proxy.connect_failures import UpstreamConnectTimeout
from proxy.errors import TooManyConnects, TooManyNames
from proxy.upstream import pool as pool_module
from proxy.upstream.connects import Connects
from proxy.upstream.origin import Origin
from proxy.upstream.pool import ConnectionPool
from tests.support.upstream import Upstream


def connects(**changes: Any) -> Connects:
    return Connects(**{"total": 4, "per_owner": 2, "seconds": 60.0, **changes})


async def test_owner_waits_for_a_place_and_others_do_not() -> None:
    places = connects()
    entered = asyncio.Event()

    async def third() -> None:
        async with places.place("mallory"):
            entered.set()

    async with places.place("mallory"):
        async with places.place("mallory"):
            waiting = asyncio.create_task(third())
            async with places.place("alice"), places.place("alice"):
                assert not entered.is_set()
        await waiting
    assert entered.is_set()
    assert not places._shares._taken


async def test_place_that_is_not_free_in_time_is_refused() -> None:
    places = connects(seconds=0.05)
    async with places.place("mallory"), places.place("mallory"):
        with pytest.raises(TooManyConnects):
            async with places.place("mallory"):
                pass
        async with places.place("alice"):
            pass
    assert not places._shares._taken
    assert not places._shares.waiting("mallory")


@pytest.mark.parametrize("release_first", [True, False])
async def test_cancelled_waiter_leaves_its_place(release_first: bool) -> None:
    places = connects(total=1, per_owner=1)
    stack = contextlib.AsyncExitStack()
    await stack.enter_async_context(places.place("alice"))

    async def wait() -> None:
        async with places.place("alice"):
            await asyncio.sleep(60)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    if release_first:
        await stack.aclose()  # it has its place, and does not know yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await stack.aclose()
    assert not places._shares._taken
    async with places.place("alice"):
        pass


# --- In the pool -----------------------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server whose queue is full, so that it answers no further SYN."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


async def ask(pool: ConnectionPool, port: int, owner: str, host: str = "127.0.0.1") -> int:
    origin = Origin("http", host, port)
    key_header = (b"authorization", bytearray(b"Bearer sk-canary"))
    response = await pool.send(
        origin, "GET", b"/x", [(b"host", b"a")], key_header, b"", credential_id=owner, owner_id=owner, owner_email=""
    )
    response.close()
    return response.status


async def test_silent_destination_holds_up_only_its_owner(
    silent: int, upstream: Upstream, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.1/32"]
    monkeypatch.setattr(pool_module, "MAX_CONNECTS_PER_OWNER", 4)
    pool = ConnectionPool()
    hanging = [asyncio.create_task(ask(pool, silent, "mallory")) for _ in range(20)]
    for _ in range(3):  # they begin
        await asyncio.sleep(0)
    assert pool._connects._shares.waiting("mallory") == 16
    assert pool._connects._shares._taken == 4
    assert await ask(pool, upstream.port, "alice") == 200
    assert not any(task.done() for task in hanging)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert not pool._connects._shares._taken
    pool.close()


async def test_errors_say_what_holds_a_request_up(silent: int, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.1/32"]
    monkeypatch.setattr(pool_module, "MAX_CONNECTS_PER_OWNER", 1)
    monkeypatch.setattr(pool_module, "CONNECT_SECONDS", 0.3)
    pool = ConnectionPool()
    pool._connects._seconds = 0.1
    results = await asyncio.gather(*(ask(pool, silent, "mallory") for _ in range(2)), return_exceptions=True)
    assert {type(result) for result in results} == {UpstreamConnectTimeout, TooManyConnects}

    async def busy(*_: object, **__: object) -> None:
        raise TooManyLookUps

    monkeypatch.setattr(pool._resolver, "aresolve", busy)
    with pytest.raises(TooManyNames):
        await ask(pool, silent, "mallory", "good.example")
    pool.close()
