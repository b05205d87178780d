"""Which server processes run and which master keys they have loaded, so that rotation can wait for all of them."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

from django.db import close_old_connections
from django.db.models import QuerySet
from django.db.models.functions import Now

from credentials import keyring
from credentials.keyring import Keyring
from credentials.models import ServerProcess

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # how soon a changed keyring is noted
BEAT_SECONDS = 5.0  # how often an unchanged one is
GONE_SECONDS = 20.0  # a process that has not been seen for so long was killed


def running() -> QuerySet[ServerProcess]:
    """The server processes that run now, by name."""
    return ServerProcess.objects.filter(seen_at__gt=Now() - timedelta(seconds=GONE_SECONDS)).order_by("name")


def note(process_id: uuid.UUID, ring: Keyring) -> None:
    """Say that this process runs and has loaded `ring`."""
    ServerProcess.objects.update_or_create(
        pk=process_id,
        defaults={
            "name": f"{socket.gethostname()}:{os.getpid()}"[:100],
            "primary_key_id": ring.primary_id,
            "key_ids": {key_id: ring.check_value(key_id).hex() for key_id in ring.ids},
            "seen_at": Now(),
        },
    )


def forget(process_id: uuid.UUID) -> None:
    """This process ends. Rows of processes that were killed long ago go too."""
    ServerProcess.objects.filter(pk=process_id).delete()
    ServerProcess.objects.filter(seen_at__lt=Now() - timedelta(days=1)).delete()


class Presence:
    """Notes one server process for as long as it runs. Create it inside the running event loop."""

    def __init__(self) -> None:
        self._id = uuid.uuid4()
        self._noted: Keyring | None = None
        self._noted_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once the process is noted: it serves nothing before rotation can know of it."""
        await self._note()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(_in_thread, forget, self._id)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if keyring.current() is not self._noted or time.monotonic() - self._noted_at >= BEAT_SECONDS:
                await self._note()

    async def _note(self) -> None:
        ring = keyring.current()
        if await asyncio.to_thread(_in_thread, note, self._id, ring):
            self._noted, self._noted_at = ring, time.monotonic()


def _in_thread(work: Callable[..., None], *arguments: object) -> bool:
    """Do one piece of database work. A database that is down for a while must not end the noting."""
    close_old_connections()
    try:
        work(*arguments)
    except Exception as error:  # noqa: BLE001
        logger.warning("presence_not_noted kind=%s", type(error).__name__)
        return False
    finally:
        close_old_connections()
    return True
