"""The gunicorn worker: uvicorn, configured for forwarding byte for byte."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import signal
from functools import cache
from typing import Any, ClassVar, NoReturn

from django.conf import settings
from uvicorn_worker import UvicornWorker

from proxy.server.protocol import HTTPProtocol
from strake.processes import runtime


class FrontProtocol(HTTPProtocol):
    """A connection from outside, or on one of the two sockets for the web half, which let in nobody else."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.listener[0] not in _INTERNAL_SOCKETS:
            return
        self.is_internal = True
        if runtime.peer_uid(transport.get_extra_info("socket")) not in _allowed_uids():
            transport.abort()


_INTERNAL_SOCKETS = frozenset({str(settings.STRAKE_PROXY_SOCKET), str(settings.STRAKE_WRAP_SOCKET)})


@cache
def _allowed_uids() -> frozenset[int]:
    return runtime.allowed_uids(settings.STRAKE_WEB_USER)


class Worker(UvicornWorker):
    """Runs uvicorn without an access log, which would contain paths and IP addresses, and without added headers."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": FrontProtocol,
        "ws": "none",  # FrontProtocol serves WebSocket itself
        "lifespan": "on",
        "proxy_headers": False,
        "server_header": False,
        "date_header": False,
        "access_log": False,
        # Report to gunicorn once a second. Uvicorn would wait by the time of day, so if that is set back, it reports
        # nothing for as long, and gunicorn kills the worker.
        "timeout_notify": -math.inf,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Before gunicorn kills the worker, so that responses are broken off visibly and the request log is written.
        self.config.timeout_graceful_shutdown = self.cfg.graceful_timeout - 5

    def init_process(self) -> None:
        # Each stream uses two sockets, and the usual soft limit is 1024.
        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
        super().init_process()

    def init_signals(self) -> None:
        """Exit normally: after its shutdown uvicorn raises the signal again, and the default handler would kill.

        At once, since before uvicorn's start an exception from a signal handler could be lost, or print a traceback.
        """
        super().init_signals()
        signal.signal(signal.SIGTERM, _exit)
        signal.signal(signal.SIGINT, _exit)

    def handle_exit(self, sig: int, frame: object) -> None:
        """Handle SIGQUIT, which gunicorn sends on Ctrl+C, like SIGTERM: uvicorn handles SIGINT and SIGTERM only.

        Ctrl+C also reaches the worker as SIGINT, and a second SIGINT would make uvicorn skip its shutdown.
        """
        os.kill(os.getpid(), signal.SIGTERM)


def _exit(*_: object) -> NoReturn:
    os._exit(0)
