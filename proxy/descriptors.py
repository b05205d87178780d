"""Tells the log when the process may open no more files: the kernel then refuses connections without a word."""

from __future__ import annotations

import asyncio
import logging
import os
import resource

from accounts.outage_log import OutageLog

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5


class DescriptorWatch:
    """Logs `descriptors_exhausted`, with the limit, and `descriptors_free` when that is over."""

    def __init__(self) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._outage = OutageLog(logger, f"descriptors_exhausted limit={limit}", "descriptors_free")

    async def run(self) -> None:
        """Look twice a second, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        try:
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            self._outage.failed(error)
        else:
            self._outage.works()
