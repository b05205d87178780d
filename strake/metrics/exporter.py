"""The listener of `STRAKE_METRICS_BIND`: `python -m strake.metrics.exporter FOLDER DESCRIPTOR …`.

A process of its own. It faces a network, so it has no secrets, no environment, no database, and of the files it reads
only the code and the runtime folder, if this system can confine it. It ends when its standard input does.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry, PlatformCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app
from prometheus_client.registry import Collector

from accounts.metrics import registry as own_metrics
from strake import __version__
from strake.metrics import snapshots
from strake.metrics.process import measure_process
from strake.metrics.snapshots import EXPIRY_SECONDS, Family, Totals
from strake.processes import landlock
from strake.processes.hardening import harden

CLIENT_SECONDS = 10.0  # how long a client may take for its request

AnyFamily = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Totaled(Collector):
    """Adds up what the processes have published in a runtime folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Any]:
        yield InfoMetricFamily("strake_build", "The version of Strake.", value={"version": __version__})
        totals = Totals()
        for snapshot, age in snapshots.read_all(self._folder):
            totals.add(snapshot, gauges=age < EXPIRY_SECONDS)
        measure_process("exporter")
        totals.add(snapshots.taken(list(own_metrics.values())), gauges=True)
        for name, family in sorted(totals.families.items()):
            yield _family(name, family)


def _family(name: str, family: Family) -> AnyFamily:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
        for labels, (*counts, total) in family.values.items():
            histogram.add_metric(labels, list(_buckets(family.bounds, counts)), total)
        return histogram
    kind: type[CounterMetricFamily | GaugeMetricFamily] = (
        CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    )
    found = kind(name, family.help, labels=family.labels)
    for labels, value in family.values.items():
        found.add_metric(labels, value)
    return found


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        total += count
        yield ("+Inf" if bound == float("inf") else repr(float(bound))), total


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS

    def address_string(self) -> str:
        return ""  # a client on a Unix socket has none

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class _Server(ThreadingWSGIServer):
    """Serves on a socket that listens already."""

    def __init__(self, listener: socket.socket, registry: CollectorRegistry) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = "strake", 0
        self.setup_environ()
        self.set_app(make_wsgi_app(registry, disable_compression=True))

    def get_request(self) -> tuple[socket.socket, Any]:
        connected, address = super().get_request()
        return connected, address or ("", 0)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: the client has left."""


def main(folder: str, *descriptors: str) -> None:
    harden()
    landlock.restrict(readable=[*landlock.code_paths(), Path(folder)], writable=landlock.DEVICES)
    registry = CollectorRegistry()
    registry.register(Totaled(Path(folder)))
    PlatformCollector(registry=registry)
    for descriptor in descriptors:
        server = _Server(socket.socket(fileno=int(descriptor)), registry)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
