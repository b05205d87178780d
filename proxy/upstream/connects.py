"""How many connections may be opened at once: a share for each owner, and a limit in all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable

from credentials.shares import Shares
from proxy.errors import TooManyConnects


class Connects:
    """Places for connections that are being opened. Used on one event loop.

    A burst waits for its turn, since a server that answers needs milliseconds. Only servers that do not answer make
    anybody wait for long.
    """

    def __init__(self, *, total: int, per_owner: int, seconds: float) -> None:
        self._shares = Shares[asyncio.Future[None]](total=total, per_owner=per_owner)
        self._seconds = seconds
        self._waiting = 0

    @property
    def taken(self) -> int:
        """The number of connections that are being opened."""
        return self._shares.taken

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a place."""
        return self._waiting

    @contextlib.asynccontextmanager
    async def place(self, owner: Hashable) -> AsyncIterator[None]:
        """Hold a place. Raises `TooManyConnects` if none becomes free in time."""
        if not self._shares.try_take(owner):
            await self._wait(owner)
        try:
            yield
        finally:
            self._shares.free(owner)
            self._give_places()

    async def _wait(self, owner: Hashable) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._shares.add(owner, turn)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._shares.free(owner)  # it got its place and its cancellation at the same time
                self._give_places()
            else:
                self._shares.remove(owner, turn)
            if isinstance(error, TimeoutError):
                raise TooManyConnects(retry_after=10) from None
            raise
        finally:
            self._waiting -= 1

    def _give_places(self) -> None:
        while (taken := self._shares.next()) is not None:
            owner, turn = taken
            if turn.done():  # it is being cancelled
                self._shares.free(owner)
            else:
                turn.set_result(None)
