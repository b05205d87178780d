"""A coroutine without a task: when it begins, goes on, and is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy.server.run import Run, Signal, in_task
from tests.support.upstream import until

Steps = list[Any]


class Started:
    """A coroutine that has been started. `ended` has one item for its end: its error, or None."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.ended: list[BaseException | None] = []
        self.run = Run(coroutine, self.ended.append)
        self.run.go_on()

    @property
    def was_cancelled(self) -> bool:
        [error] = self.ended
        return isinstance(error, asyncio.CancelledError)


@pytest.fixture
def steps() -> Steps:
    return []


async def turns(count: int = 3) -> None:
    """Let the event loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


def signal() -> Signal:
    return Signal(asyncio.get_running_loop())


async def waiting(steps: Steps, *awaitables: Any) -> None:
    """Await one after another, and note what happens."""
    for number, awaitable in enumerate(awaitables):
        steps.append(number)
        try:
            steps.append(await awaitable)
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise


# --- A run ---------------------------------------------------------------------------------------------------------


async def test_run_begins_and_ends_at_once(steps: Steps) -> None:
    async def coroutine() -> None:
        steps.append("ran")

    started = Started(coroutine())
    assert (steps, started.ended) == (["ran"], [None])


async def test_run_goes_on_in_the_callback_that_sets_a_signal(steps: Steps) -> None:
    arrived = signal()
    started = Started(waiting(steps, arrived, arrived, arrived))
    assert steps == [0]
    arrived.set()
    assert steps == [0, None, 1]
    arrived.set()
    assert steps == [0, None, 1, None, 2]
    assert started.ended == []
    arrived.set()
    assert started.ended == [None]


async def test_signal_remembers_nothing(steps: Steps) -> None:
    arrived = signal()
    arrived.set()
    assert not arrived.cancel()
    Started(waiting(steps, arrived))
    await turns()
    assert (steps, arrived.is_awaited) == ([0], True)
    arrived.set()
    assert (steps, arrived.is_awaited) == ([0, None], False)


async def test_run_waits_for_a_future(steps: Steps) -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    done.set_result("done")
    started = Started(waiting(steps, done, future))
    assert steps == [0, "done", 1]
    future.set_result("later")
    await turns()
    assert (steps, started.ended) == ([0, "done", 1, "later"], [None])


async def test_error_of_a_future_is_raised_in_the_run() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    started = Started(waiting([], future))
    error = OSError()
    future.set_exception(error)
    await turns()
    assert started.ended == [error]


async def test_run_waits_for_a_turn_of_the_loop(steps: Steps) -> None:
    started = Started(waiting(steps, asyncio.sleep(0), asyncio.sleep(0)))
    assert steps == [0]
    await asyncio.sleep(0)
    assert steps == [0, None, 1]
    await asyncio.sleep(0)
    assert started.ended == [None]


async def test_error_is_reported(steps: Steps) -> None:
    arrived, error = signal(), ValueError()

    async def coroutine() -> None:
        await arrived
        raise error

    started = Started(coroutine())
    arrived.set()
    assert started.ended == [error]


async def test_end_of_the_process_is_reported_and_raised() -> None:
    async def coroutine() -> None:
        raise SystemExit

    ended: list[BaseException | None] = []
    run = Run(coroutine(), ended.append)
    with pytest.raises(SystemExit):
        run.go_on()
    assert [type(error) for error in ended] == [SystemExit]


# --- A run that is cancelled ---------------------------------------------------------------------------------------


Wait = Callable[[], Coroutine[Any, Any, None]]


async def for_signal() -> None:
    await signal()


async def for_future() -> None:
    await asyncio.get_running_loop().create_future()


async def for_turn() -> None:
    await asyncio.sleep(0)


async def for_task() -> None:
    await in_task(for_future())


@pytest.mark.parametrize("wait", [for_signal, for_future, for_turn, for_task])
@pytest.mark.parametrize("times", [1, 2])
async def test_cancel_is_raised_where_the_run_waits(wait: Wait, times: int, steps: Steps) -> None:
    started = Started(waiting(steps, wait()))
    for _ in range(times):
        started.run.cancel()
    assert steps == [0], "not in the middle of whatever cancels"
    await turns()
    assert steps == [0, "cancelled"]
    assert started.was_cancelled


async def test_cancel_before_the_begin_runs_nothing(steps: Steps) -> None:
    ended: list[BaseException | None] = []
    run = Run(waiting(steps), ended.append)
    run.cancel()
    run.go_on()
    assert steps == []
    assert [type(error) for error in ended] == [asyncio.CancelledError]


@pytest.mark.parametrize("wait", [for_signal, for_future, for_turn])
async def test_cancel_by_itself_is_raised_where_it_waits_next(wait: Wait, steps: Steps) -> None:
    arrived = signal()

    async def coroutine() -> None:
        await arrived
        started.run.cancel()
        steps.append("still running")
        await waiting(steps, wait())

    started = Started(coroutine())
    arrived.set()
    await turns()
    assert steps == ["still running", 0, "cancelled"]
    assert started.was_cancelled


@pytest.mark.parametrize("times", [1, 2])
async def test_run_may_go_on_after_a_cancel(times: int, steps: Steps) -> None:
    arrived = signal()

    async def coroutine() -> None:
        try:
            await arrived
        except asyncio.CancelledError:
            steps.append("cancelled")
        await arrived
        steps.append("went on")

    started = Started(coroutine())
    for _ in range(times):
        started.run.cancel()
    arrived.set()
    await turns()
    assert steps == ["cancelled"]
    arrived.set()
    assert steps == ["cancelled", "went on"]
    assert started.ended == [None]


async def test_cancel_after_a_result_is_raised_all_the_same(steps: Steps) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    started = Started(waiting(steps, future))
    future.set_result(None)
    started.run.cancel()
    await turns()
    assert steps == [0, "cancelled"]
    assert started.was_cancelled


# --- Tasks ---------------------------------------------------------------------------------------------------------


async def test_task_waits_for_a_signal(steps: Steps) -> None:
    arrived = signal()
    task = asyncio.create_task(waiting(steps, arrived, arrived))
    await turns()
    assert (steps, arrived.is_awaited) == ([0], True)
    arrived.set()
    assert (steps, arrived.is_awaited) == ([0], False)
    await turns()
    assert steps == [0, None, 1]
    arrived.set()
    await task
    assert steps == [0, None, 1, None]


@pytest.mark.parametrize("then", ["nothing", "set", "set before", "cancel"])
async def test_cancelled_task_waits_no_longer_for_a_signal(then: str, steps: Steps) -> None:
    arrived = signal()
    task = asyncio.create_task(waiting(steps, arrived))
    await turns()
    if then == "set before":
        arrived.set()
    task.cancel()
    if then == "set":
        arrived.set()
    elif then == "cancel":
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == [0, "cancelled"]
    assert not arrived.is_awaited
    # The next one is not concerned.
    started = Started(waiting(steps, arrived))
    arrived.set()
    assert started.ended == [None]


async def test_timeout_of_a_task_ends_its_wait_for_a_signal() -> None:
    arrived = signal()

    async def coroutine() -> None:
        async with asyncio.timeout(0.01):
            await arrived

    started = Started(in_task(coroutine()))
    await until(lambda: started.ended)
    assert isinstance(started.ended[0], TimeoutError)


async def test_cancel_reaches_the_task_that_a_run_waits_for(steps: Steps) -> None:
    inner = waiting(steps, asyncio.get_running_loop().create_future())
    started = Started(in_task(inner))
    await turns()
    assert steps == [0]
    started.run.cancel()
    await turns(5)
    assert steps == [0, "cancelled"]
    assert started.was_cancelled


async def test_result_and_error_of_a_task_reach_the_run(steps: Steps) -> None:
    async def result() -> str:
        return "result"

    async def error() -> None:
        raise KeyError

    started = Started(waiting(steps, in_task(result()), in_task(error())))
    await turns(10)
    assert steps == [0, "result", 1]
    assert [type(error) for error in started.ended] == [KeyError]
