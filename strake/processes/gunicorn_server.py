"""gunicorn, as both halves run it: on sockets that are open already, and with a configuration in code."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.conf import settings
from django.db import connection, connections
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from strake.logs import ServerLogger
from strake.processes.hardening import end_with_parent, harden

logger = logging.getLogger(__name__)

_M_ARENA_MAX = -8  # <malloc.h>
_BETWEEN_HALVES = frozenset({str(settings.STRAKE_PROXY_SOCKET), str(settings.STRAKE_WRAP_SOCKET)})
_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


def _pre_fork(arbiter: Any, worker: Any) -> None:
    """Prepare for a fork.

    Closes database connections: two processes on one would read each other's rows. Then takes every object out of
    garbage collection: a collection writes to each object that it visits, and memory that is written to is not shared.
    What the start has freed goes back to the system.
    """
    for opened in connections.all(initialized_only=True):
        opened.close()
        if hasattr(opened, "close_pool"):
            opened.close_pool()
    gc.collect()
    gc.freeze()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        with contextlib.suppress(AttributeError):  # a C library other than glibc
            libc.mallopt(_M_ARENA_MAX, 1)  # Python's threads take turns, so an arena for each would only cost memory
            libc.malloc_trim(0)


def _post_fork(arbiter: Any, worker: Any) -> None:
    end_with_parent()
    harden()


def accept_signals(worker: Any) -> None:
    """Let a worker receive signals, once it has loaded the application. `StoppableArbiter` holds them back before."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


class StoppableArbiter(Arbiter):
    """gunicorn's master process. A worker that is told to stop right after its fork does stop.

    Until a worker has its own handlers, it has the master's, which would lose the signal. The master sends it once.
    """

    def spawn_worker(self) -> Any:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        try:
            return super().spawn_worker()  # in the worker, this does not return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def _log_start(arbiter: Any) -> None:
    logger.info(
        "start half=%s version=%s bind=%s database=%s workers=%d",
        settings.STRAKE_PROCESS,
        settings.STRAKE_VERSION,
        ",".join(name for name in map(_address, arbiter.LISTENERS) if name not in _BETWEEN_HALVES),
        connection.vendor,
        arbiter.num_workers,
    )


def _log_stop(arbiter: Any) -> None:
    logger.info("stop half=%s version=%s", settings.STRAKE_PROCESS, settings.STRAKE_VERSION)


def _address(listener: Any) -> str:
    """The address of one of gunicorn's sockets: `host:port`, or the path of a Unix socket."""
    name = listener.sock.getsockname()
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(name)


_COMMON: Mapping[str, Any] = {
    # Load before the fork, so that a mistake in the configuration is reported once and not once per worker.
    "preload_app": True,
    "timeout": 120,
    "keepalive": 75,
    "umask": 0o077,
    "accesslog": None,
    "errorlog": "-",
    "loglevel": "warning",
    "logger_class": ServerLogger,
    "control_socket_disable": True,
    "pre_fork": _pre_fork,
    "post_fork": _post_fork,
    "post_worker_init": accept_signals,
    "when_ready": _log_start,
    "on_exit": _log_stop,
}


class GunicornServer(BaseApplication):
    """gunicorn on `listeners`, with the settings of `config` added. It ignores the command line.

    `load_application` returns the ASGI or WSGI application.
    """

    arbiter_class: type[Arbiter] = StoppableArbiter

    def __init__(
        self, listeners: Sequence[socket.socket], config: Mapping[str, Any], load_application: Callable[[], Any]
    ) -> None:
        self._listeners = listeners
        self._config = config
        self._load_application = load_application
        super().__init__()

    def load_config(self) -> None:
        for name, value in {**_COMMON, **self._config}.items():
            self.cfg.set(name, value)
        self.cfg.set("bind", [f"fd://{listener.fileno()}" for listener in self._listeners])

    def load(self) -> Any:
        return self._load_application()

    def run(self) -> None:
        self.arbiter_class(self).run()
