"""gunicorn's configuration, for `manage.py serve` and for `gunicorn -c python:strake.gunicorn_config strake.asgi`."""

from __future__ import annotations

import os
from typing import Any

from django.conf import settings
from django.db import connections

from strake.hardening import harden

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")

_host = settings.STRAKE_BASE.hostname if settings.STRAKE_EMBEDDED else "127.0.0.1"

# "localhost" may mean two addresses; one of them is enough to serve, and both are tried by clients.
bind = [f"{'127.0.0.1' if _host == 'localhost' else f'[{_host}]' if ':' in str(_host) else _host}:{settings.PORT}"]
workers = settings.WEB_CONCURRENCY or (1 if settings.STRAKE_EMBEDDED else os.cpu_count() or 1)
worker_class = "strake.worker.Worker"
wsgi_app = "strake.asgi:application"
# Loaded before the fork, so that a mistake in the configuration is one message and not one per worker.
preload_app = True
# A stream in flight may finish; what is still going after this long is cut, visibly for its client.
graceful_timeout = 60
timeout = 120
keepalive = 75
backlog = 2048
umask = 0o077
accesslog = None
errorlog = "-"
loglevel = "warning"
logger_class = "strake.logs.ServerLogger"
control_socket_disable = True
proc_name = "strake"


def on_starting(arbiter: Any) -> None:
    """Before the first fork."""
    harden()


def pre_fork(arbiter: Any, worker: Any) -> None:
    """Before each fork: two processes on one database connection would read each other's rows."""
    for connection in connections.all(initialized_only=True):
        connection.close()
        if hasattr(connection, "close_pool"):
            connection.close_pool()


def post_fork(arbiter: Any, worker: Any) -> None:
    """In each worker."""
    harden()
