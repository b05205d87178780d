"""The resolver: silent names hold up only their owner, and known addresses survive a DNS server that fails."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from credentials import resolver as resolver_module
from credentials.resolver import MAX_LOOK_UPS_PER_OWNER, MAX_WAITING_PER_OWNER, NotResolved, Resolver, TooManyLookUps
from tests.support.upstream import eventually


class Names:
    """A DNS server in the place of `getaddrinfo`. It answers names that begin with "silent" when told to speak."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.addresses = ["192.0.2.1"]
        self.error: OSError | None = None
        self.is_silent = False
        self._spoken = threading.Event()

    def getaddrinfo(self, host: str, port: None, **_: Any) -> list[Any]:
        self.asked.append(host)
        if self.is_silent or host.startswith("silent"):
            assert self._spoken.wait(100)
        if self.error is not None:
            raise self.error
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in self.addresses]

    def speak(self) -> None:
        self._spoken.set()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.speak()
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "strake-resolver"])


def in_background(resolver: Resolver, names: list[str], owner: str) -> ThreadPoolExecutor:
    """Look names up, each in a thread that waits for the result."""
    executor = ThreadPoolExecutor(len(names))
    for name in names:
        executor.submit(resolver.resolve, name, owner, seconds=60)
    return executor


def test_silent_names_hold_up_only_their_owner(names: Names) -> None:
    resolver = Resolver(reserved=["api.openai.com"])
    executor = in_background(resolver, [f"silent-{n}.example" for n in range(20)], "mallory")
    eventually(lambda: len(names.asked) == MAX_LOOK_UPS_PER_OWNER)
    assert resolver.resolve("good.example", "alice", seconds=60) == ("192.0.2.1",)
    assert resolver.resolve("api.openai.com", "mallory", seconds=60) == ("192.0.2.1",)
    eventually(lambda: len(resolver._in_progress) == 20)
    with pytest.raises(TooManyLookUps):
        resolver.resolve("good-too.example", "mallory", seconds=0.05)
    assert names.asked[2:] == ["good.example", "api.openai.com"]
    names.speak()
    executor.shutdown()
    assert resolver.resolve("good-too.example", "mallory", seconds=60) == ("192.0.2.1",)
    assert not resolver._in_progress


def test_fixed_providers_have_threads_of_their_own(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "MAX_LOOK_UPS", 4)
    resolver = Resolver(reserved=["api.openai.com"])
    executors = [in_background(resolver, [f"silent-{n}.example"], f"mallory-{n}") for n in range(4)]
    eventually(lambda: len(names.asked) == 4)
    assert resolver.resolve("api.openai.com", "alice", seconds=60)
    with pytest.raises(TooManyLookUps):
        resolver.resolve("good.example", "alice", seconds=0.05)
    names.speak()
    for executor in executors:
        executor.shutdown()


def test_queue_of_an_owner_is_bounded(names: Names) -> None:
    resolver = Resolver()
    number = MAX_LOOK_UPS_PER_OWNER + MAX_WAITING_PER_OWNER
    executor = in_background(resolver, [f"silent-{n}.example" for n in range(number)], "mallory")
    eventually(lambda: len(resolver._in_progress) == number)
    with pytest.raises(TooManyLookUps):
        resolver.resolve("one-more.example", "mallory", seconds=600)  # at once
    names.speak()
    executor.shutdown()


def test_name_in_a_strangers_queue_is_looked_up(names: Names) -> None:
    """Somebody could queue a name that they do not need, behind names that do not answer."""
    resolver = Resolver()
    executor = in_background(resolver, ["silent-1.example", "silent-2.example"], "mallory")
    eventually(lambda: len(names.asked) == 2)
    queued = in_background(resolver, ["good.example"], "mallory")
    eventually(lambda: "good.example" in resolver._in_progress)
    assert resolver.resolve("good.example", "alice", seconds=60) == ("192.0.2.1",)
    queued.shutdown()
    assert names.asked.count("good.example") == 1
    names.speak()
    executor.shutdown()


def test_abandoned_look_ups_leave_the_queue(names: Names) -> None:
    resolver = Resolver()
    executor = in_background(resolver, ["silent-1.example", "silent-2.example"], "mallory")
    eventually(lambda: len(names.asked) == 2)
    for n in range(2 * MAX_WAITING_PER_OWNER):
        with pytest.raises(TooManyLookUps):
            resolver.resolve(f"waiting-{n}.example", "mallory", seconds=0.001)
    assert len(resolver._in_progress) == 2
    names.speak()
    executor.shutdown()
    assert names.asked == ["silent-1.example", "silent-2.example"]


def test_look_ups_of_one_name_are_joined(names: Names) -> None:
    resolver = Resolver()
    executors = [in_background(resolver, ["silent.example"] * 5, owner) for owner in ("alice", "bob")]
    # All of them wait before there is an answer. One that begins later uses the answer, or asks again.
    eventually(lambda: [len(look_up.listeners) for look_up in resolver._in_progress.values()] == [10])
    names.speak()
    for executor in executors:
        executor.shutdown()
    assert resolver.resolve("silent.example", "alice", seconds=60) == ("192.0.2.1",)
    assert names.asked == ["silent.example"]


def test_answer_is_used_until_it_is_stale(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver()
    for _ in range(3):
        resolver.resolve("a.example", "alice", seconds=60)
    assert names.asked == ["a.example"]
    resolver = Resolver(fresh_seconds=0)
    names.addresses = ["192.0.2.2", "192.0.2.2", "192.0.2.3"]
    for _ in range(3):
        assert resolver.resolve("a.example", "alice", seconds=60) == ("192.0.2.2", "192.0.2.3")
    assert len(names.asked) == 4


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_AGAIN, ""), OSError()], ids=["no server", "other"])
def test_last_good_address_survives_a_failure(error: OSError, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(fresh_seconds=0)
    resolver.resolve("a.example", "alice", seconds=60)
    names.error = error
    assert resolver.resolve("a.example", "alice", seconds=60) == ("192.0.2.1",)
    with pytest.raises(NotResolved):
        resolver.resolve("b.example", "alice", seconds=60)


def test_last_good_address_is_used_if_an_answer_is_late(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "LATE_SECONDS", 0.05)
    resolver = Resolver(fresh_seconds=0)
    resolver.resolve("a.example", "alice", seconds=60)
    names.is_silent = True
    for _ in range(3):
        assert resolver.resolve("a.example", "alice", seconds=600) == ("192.0.2.1",)
    assert names.asked == ["a.example"] * 2  # the late look-up goes on, and is not repeated


def test_last_good_address_is_used_over_the_share(names: Names) -> None:
    resolver = Resolver(fresh_seconds=0)
    resolver.resolve("a.example", "mallory", seconds=60)
    number = MAX_LOOK_UPS_PER_OWNER + MAX_WAITING_PER_OWNER
    executor = in_background(resolver, [f"silent-{n}.example" for n in range(number)], "mallory")
    eventually(lambda: len(resolver._in_progress) == number)
    assert resolver.resolve("a.example", "mallory", seconds=600) == ("192.0.2.1",)
    names.speak()
    executor.shutdown()


def test_name_that_no_longer_exists_loses_its_address(names: Names) -> None:
    resolver = Resolver(fresh_seconds=0)
    resolver.resolve("a.example", "alice", seconds=60)
    names.error = socket.gaierror(socket.EAI_NONAME, "")
    for _ in range(2):
        with pytest.raises(NotResolved):
            resolver.resolve("a.example", "alice", seconds=60)
    assert len(names.asked) == 2  # the failure is kept for a moment


def test_failure_is_forgotten_soon(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "FAILED_SECONDS", 0.0)
    resolver = Resolver()
    names.error = socket.gaierror(socket.EAI_NONAME, "")
    with pytest.raises(NotResolved):
        resolver.resolve("a.example", "alice", seconds=60)
    names.error = None
    assert resolver.resolve("a.example", "alice", seconds=60)


def test_number_of_known_names_is_bounded(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "MAX_NAMES", 3)
    resolver = Resolver(reserved=["api.openai.com"])
    for host in ("api.openai.com", *(f"{n}.example" for n in range(9))):
        resolver.resolve(host, "mallory", seconds=60)
    assert len(resolver._known) == 3
    asked = len(names.asked)
    resolver.resolve("api.openai.com", "alice", seconds=60)
    assert len(names.asked) == asked


def test_defect_in_a_look_up_frees_its_place(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: None)
    resolver = Resolver()
    for n in range(3 * MAX_LOOK_UPS_PER_OWNER):
        with pytest.raises(NotResolved):
            resolver.resolve(f"{n}.example", "alice", seconds=60)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_literal_needs_no_look_up(host: str, names: Names) -> None:
    assert Resolver().resolve(host, "alice", seconds=0) == (host,)
    assert not names.asked


async def test_waiting_on_the_loop_leaves_nothing_behind(names: Names, caplog: pytest.LogCaptureFixture) -> None:
    """Neither late answers nor cancelled waiters end up as errors that nobody retrieves."""
    resolver = Resolver()
    with pytest.raises(NotResolved):
        await resolver.aresolve("silent.example", "mallory", seconds=0.05)
    waiting = asyncio.create_task(resolver.aresolve("silent.example", "mallory", seconds=60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    names.error = OSError()
    names.speak()
    await asyncio.to_thread(eventually, lambda: not resolver._in_progress)
    gc.collect()
    assert not caplog.records


def test_answer_after_the_loop_has_closed_is_dropped(names: Names) -> None:
    resolver = Resolver()

    async def leave() -> None:
        task = asyncio.create_task(resolver.aresolve("silent.example", "alice", seconds=60))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    names.speak()
    eventually(lambda: not resolver._in_progress)
