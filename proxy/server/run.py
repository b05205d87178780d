"""Runs a coroutine without a task, from the callback in which its request arrived.

An `asyncio.Task` begins in the next turn of the event loop, and needs another turn for each thing that it waited for.
Here a coroutine begins at once. It waits for a `Signal` and goes on in the callback that sets it, or for any future.
`asyncio.timeout` needs a task: code that may use it runs in one, by `in_task`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

Result = TypeVar("Result")


async def in_task(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Await a coroutine that needs to be a task. Cancelling this cancels it."""
    return await asyncio.get_running_loop().create_task(coroutine)


class Signal:
    """Wakes the one coroutine that awaits it. It can be awaited again and again, and remembers nothing.

    In a task it behaves as a future does: the attributes of one that `asyncio.Task` uses are here too.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_cancelled", "_loop", "run")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self.run: Run | None = None  # that waits
        self._callback: Callable[[Any], object] | None = None  # of the task that waits
        self._cancelled = False

    def __await__(self) -> Generator[Any, None, None]:
        self._asyncio_future_blocking = True
        self._cancelled = False  # as an earlier wait may have been, even twice
        yield self
        if self._cancelled:
            self.result()

    @property
    def is_awaited(self) -> bool:
        return self.run is not None or self._callback is not None

    def set(self) -> None:
        """Go on with the coroutine that waits: at once, or in the next turn of the event loop if it is a task."""
        if self.run is not None:
            run, self.run = self.run, None
            run.go_on()
        elif self._callback is not None:
            callback, self._callback = self._callback, None
            self._loop.call_soon(callback, self)

    def cancel(self, msg: object = None) -> bool:
        """Let the coroutine that waits raise `CancelledError` in the next turn. Returns whether there is one."""
        callback = self.run.go_on if self.run is not None else self._callback
        self.run = self._callback = None
        if callback is None:
            return False
        self._cancelled = True
        self._loop.call_soon(callback, self)
        return True

    # --- Called by tasks ---------------------------------------------------------------------------------------------

    def add_done_callback(self, callback: Callable[[Any], object], *, context: object = None) -> None:
        self._callback = callback

    def result(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop


class Run:
    """A running coroutine. `cancel` is as for a task."""

    __slots__ = ("_coroutine", "_must_cancel", "_on_end", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None], on_end: Callable[[BaseException | None], None]) -> None:
        """`on_end` is called once, with the error that the coroutine raised, or None."""
        self._coroutine = coroutine
        self._on_end = on_end
        self._waits_for: Any = None
        self._must_cancel = False

    def cancel(self, msg: object = None) -> None:
        """Raise `CancelledError` where the coroutine waits. If it does not wait now, where it waits next."""
        if self._waits_for is None or not self._waits_for.cancel():
            self._must_cancel = True

    def go_on(self, _: object = None) -> None:
        """Run until the coroutine waits for something, or ends."""
        self._waits_for = None
        try:
            if self._must_cancel:
                self._must_cancel = False
                waits_for = self._coroutine.throw(asyncio.CancelledError())
            else:
                waits_for = self._coroutine.send(None)
        except StopIteration:
            self._on_end(None)
        except BaseException as error:
            self._on_end(error)
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise  # the process ends
        else:
            self._waits_for = waits_for
            if type(waits_for) is Signal and not self._must_cancel:
                waits_for.run = self
            else:
                self._wait(waits_for)

    def _wait(self, waits_for: Any) -> None:
        if type(waits_for) is Signal:
            waits_for.run = self
        elif waits_for is None:  # `asyncio.sleep(0)`
            asyncio.get_running_loop().call_soon(self.go_on)
        else:
            waits_for._asyncio_future_blocking = False  # noqa: SLF001  (as a task does)
            waits_for.add_done_callback(self.go_on)
        if self._must_cancel and waits_for is not None and waits_for.cancel():
            self._must_cancel = False
