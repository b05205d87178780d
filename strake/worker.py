"""The gunicorn worker: uvicorn with the settings that forwarding byte for byte needs."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, ClassVar, NoReturn

from uvicorn_worker import UvicornWorker


class Worker(UvicornWorker):
    """No headers of the server's own beside the provider's, no access log (it would hold paths and addresses)."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "httptools",
        "ws": "websockets-sansio",
        "lifespan": "on",
        "proxy_headers": False,
        "server_header": False,
        "date_header": False,
        "access_log": False,
        "h11_max_incomplete_event_size": 64 * 1024,
    }

    def init_signals(self) -> None:
        """End by returning: uvicorn raises the signal again after its shutdown, which would kill the process there."""
        super().init_signals()
        signal.signal(signal.SIGTERM, _exit)

    def handle_exit(self, sig: int, frame: object) -> None:
        """SIGQUIT, which gunicorn sends when it is interrupted: uvicorn listens to SIGINT and SIGTERM only."""
        os.kill(os.getpid(), signal.SIGINT)


def _exit(*_: object) -> NoReturn:
    sys.exit(0)
