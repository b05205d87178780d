"""The proxy half's server: uvicorn workers that face the port, hold the keyring and forward."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import uvicorn
from django.conf import settings

from credentials import egress_tls
from proxy import probes
from proxy.access import route_lookup
from strake.metrics.exporter_process import ExporterProcess
from strake.processes.gunicorn_server import GunicornServer, StoppableArbiter
from strake.processes.worker import Worker

logger = logging.getLogger(__name__)

# Seconds that streams in flight get to finish at shutdown. After that they are cut, visibly for the client.
GRACEFUL_SECONDS = 60


class DrainingArbiter(StoppableArbiter):
    """gunicorn's master process. On SIGTERM `/readyz` fails first, so that a load balancer sends no more connections.

    Accepting goes on for `STRAKE_DRAIN_SECONDS`. Then gunicorn stops: it closes the sockets and lets streams finish.
    """

    def manage_workers(self) -> None:
        super().manage_workers()
        self.app.exporter.keep_running()

    def stop(self, graceful: bool = True) -> None:
        if graceful and settings.STRAKE_DRAIN_SECONDS and not probes.is_stopping():
            probes.begin_stopping()
            time.sleep(settings.STRAKE_DRAIN_SECONDS)
        super().stop(graceful)


class ProxyServer(GunicornServer):
    arbiter_class = DrainingArbiter

    def __init__(self, listeners: Sequence[socket.socket], metrics_listeners: Sequence[socket.socket] = ()) -> None:
        config = {
            "worker_class": Worker,
            "workers": settings.WEB_CONCURRENCY or (1 if settings.STRAKE_EMBEDDED else os.cpu_count() or 1),
            "graceful_timeout": GRACEFUL_SECONDS,
            "proc_name": "strake-proxy",
        }
        self.exporter = ExporterProcess(metrics_listeners)
        super().__init__(listeners, config, _application)
        _log_egress_proxy()


def _log_egress_proxy() -> None:
    proxy = settings.STRAKE_EGRESS_PROXY
    if proxy is None:
        return
    logger.info("egress_proxy host=%s port=%d", proxy.host, proxy.port)
    if proxy.resolves:
        logger.warning("egress_proxy_resolves: the proxy decides which addresses public names may have")


def _application() -> Any:
    """Load the application, and what the workers would load on their own, before the fork, so that they share it."""
    from strake.asgi import application

    route_lookup.from_settings()  # imports the driver, and builds the statements
    if settings.REDIS_URL:
        from proxy.access import redis_rate_limits

        del redis_rate_limits
    egress_tls.prepare()
    config = uvicorn.Config(application, log_config=None, **Worker.CONFIG_KWARGS)
    config.load()
    config.get_loop_factory()
    return application
