"""Starts the exporter, and starts it again if it ends."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from django.conf import settings

from strake.processes.hardening import end_with_parent

logger = logging.getLogger(__name__)

RESTART_SECONDS = 5.0


class ExporterProcess:
    """The exporter on `listeners`, as a child of this process. Without any there is none."""

    def __init__(self, listeners: Sequence[socket.socket]) -> None:
        self._listeners = listeners
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    def keep_running(self) -> None:
        """Start it if it does not run, at most every `RESTART_SECONDS`. Its environment is empty."""
        now = time.monotonic()
        if not self._listeners or (self._process is not None and self._process.poll() is None):
            return
        if self._process is not None:
            if now - self._started_at < RESTART_SECONDS:
                return
            logger.warning("metrics_restarted")
        else:
            logger.info("metrics bind=%s", ",".join(str(address) for address in settings.STRAKE_METRICS_BIND))
        self._started_at = now
        descriptors = [listener.fileno() for listener in self._listeners]
        folder = os.fspath(settings.STRAKE_RUNTIME.folder)
        self._process = subprocess.Popen(  # noqa: S603  (our own command line)
            [sys.executable, "-m", "strake.metrics.exporter", folder, *map(str, descriptors)],
            cwd=settings.ROOT,
            env={},
            stdin=subprocess.PIPE,  # which ends with this process
            pass_fds=descriptors,
            start_new_session=True,  # Ctrl+C is for this process
            preexec_fn=end_with_parent,
        )
