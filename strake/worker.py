"""The gunicorn worker: uvicorn with the settings that forwarding byte for byte needs."""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import Any, ClassVar, NoReturn

from uvicorn_worker import UvicornWorker

from strake.gunicorn_config import graceful_timeout
from strake.server import Protocol


class Worker(UvicornWorker):
    """No headers of the server's own beside the provider's, no access log (it would hold paths and addresses)."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": Protocol,
        "ws": "proxy.tunnel:UpgradeProtocol",  # by name: Django is not set up yet
        "lifespan": "on",
        "proxy_headers": False,
        "server_header": False,
        "date_header": False,
        "access_log": False,
        # Before gunicorn kills, so that what is still going is cut visibly and the journal gets written.
        "timeout_graceful_shutdown": graceful_timeout - 5,
    }

    def init_process(self) -> None:
        # Each stream takes two sockets, and the usual soft limit is 1024.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        super().init_process()

    def init_signals(self) -> None:
        """End by returning: uvicorn raises the signal again after its shutdown, which would kill the process there."""
        super().init_signals()
        signal.signal(signal.SIGTERM, _exit)
        signal.signal(signal.SIGINT, _exit)

    def handle_exit(self, sig: int, frame: object) -> None:
        """SIGQUIT, which gunicorn sends when it is interrupted: uvicorn listens to SIGINT and SIGTERM only.

        Ctrl+C reaches the worker as well, and a second SIGINT would make uvicorn skip its shutdown.
        """
        os.kill(os.getpid(), signal.SIGTERM)


def _exit(*_: object) -> NoReturn:
    sys.exit(0)
