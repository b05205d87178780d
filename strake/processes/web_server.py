"""The web half's server: threads that serve Django's pages and the API on a Unix socket, without a keyring.

Only the proxy half connects. It has read requests completely and limits them, so a thread waits for the database only.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from django.conf import settings

from accounts import outbox
from accounts.notices import watch
from credentials.vault.heartbeats import Heartbeat, Vitals
from strake import pruning
from strake.metrics import web
from strake.metrics.publisher import Publisher
from strake.processes.gunicorn_server import GunicornServer, accept_signals

GRACEFUL_SECONDS = 30
# Keys that people pasted stay somewhere in a worker's memory, because strings cannot be overwritten. So a worker is
# replaced after this many requests, plus up to a quarter, so that several are not replaced at once.
MAX_REQUESTS = 2000


class WebServer(GunicornServer):
    def __init__(self, listeners: Sequence[socket.socket]) -> None:
        config = {
            "worker_class": "gthread",
            "workers": settings.STRAKE_WEB_WORKERS,
            "threads": settings.STRAKE_WEB_THREADS,
            "max_requests": MAX_REQUESTS,
            "max_requests_jitter": MAX_REQUESTS // 4,
            "graceful_timeout": GRACEFUL_SECONDS,
            "proc_name": "strake-web",
            # The proxy half has limited these already, in bytes.
            "limit_request_line": 0,
            "limit_request_fields": 1000,
            "limit_request_field_size": 0,
            # Nothing in a request says how the client reached Strake. The proxy half has dropped such headers.
            "forwarded_allow_ips": "",
            "secure_scheme_headers": {},
            "forwarder_headers": "",
            "post_worker_init": _start,
            "worker_exit": _stop,
        }
        super().__init__(listeners, config, _application)


def _application() -> Any:
    from strake.wsgi import application

    return application


_heartbeat = Heartbeat("web", Vitals)
_publisher = Publisher("web", web.measure, web.look)


def _start(worker: Any) -> None:
    """gunicorn calls this in each worker, after it has loaded the application."""
    accept_signals(worker)
    _heartbeat.start()
    outbox.start()
    watch.start()
    pruning.start()
    _publisher.start()


def _stop(arbiter: Any, worker: Any) -> None:
    """gunicorn calls this in each worker at its end."""
    _heartbeat.stop()
    _publisher.stop()
