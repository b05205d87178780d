"""Django's database connection for what a request rarely needs, in a thread that never blocks the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import Error as DatabaseError
from django.db import IntegrityError, close_old_connections

from proxy.errors import StoreUnavailable
from proxy.server.run import in_task

MAX_WAITING = 500
TIMEOUT_SECONDS = 5.0

Result = TypeVar("Result")


class DatabaseThread:
    """One thread with one connection. `name` is the thread's."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting = 0

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the thread.

        Raises `IntegrityError`, and `StoreUnavailable` if the database fails otherwise, or takes too long.
        """
        if self._waiting >= MAX_WAITING:
            raise StoreUnavailable(retry_after=1)
        return await in_task(self._run(work))

    async def _run(self, work: Callable[[], Result]) -> Result:
        self._waiting += 1
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._executor, _with_connection, work)
        except IntegrityError:
            raise
        except (DatabaseError, TimeoutError):
            raise StoreUnavailable(retry_after=1) from None
        finally:
            self._waiting -= 1


def _with_connection(work: Callable[[], Result]) -> Result:
    close_old_connections()
    try:
        return work()
    finally:
        close_old_connections()
