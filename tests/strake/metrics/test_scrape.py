"""What Prometheus reads from a running Strake: the sum over its processes, whatever happens to them."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from accounts import tokens
from credentials.models import BEARER_TOKEN_PREFIX
from tests.support import raw
from tests.support.running import Endpoint, Strake
from tests.support.services import free_port
from tests.support.upstream import Upstream, eventually

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
ANSWERED = {"provider": "custom", "status_class": "2xx", "error": ""}
SCAN = 10_000


class Watched:
    """A Strake with a listener for metrics."""

    def __init__(self, run_strake: Callable[..., Strake], **environment: str) -> None:
        self.port = free_port()
        self.strake = run_strake(STRAKE_METRICS_BIND=f"127.0.0.1:{self.port}", **environment)

    def scrape(self) -> Series:
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics").text
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.scrape().get((name, tuple(sorted(labels.items()))), 0.0)

    def total(self, name: str) -> float:
        return sum(value for (found, _), value in self.scrape().items() if found == name)

    def reaches(self, expected: float, name: str, **labels: str) -> None:
        """Wait for a value. Processes publish once a second."""
        eventually(lambda: self.value(name, **labels) == expected, what=f"{name} {labels}")

    @property
    def workers(self) -> list[int]:
        """The proxy workers. The exporter is another child of the same process."""
        return [
            pid
            for pid in self.strake.workers
            if b"strake.metrics.exporter" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]


def send(endpoint: Endpoint) -> int:
    return httpx.get(f"{endpoint.url}/v1/models", headers=endpoint.bearer).status_code


def test_totals_survive_the_death_of_a_worker(run_strake: Callable[..., Strake], upstream: Upstream) -> None:
    watched = Watched(run_strake)
    endpoint = watched.strake.connect(upstream.url)
    for _ in range(3):
        send(endpoint)
    watched.reaches(3, "strake_requests_total", **ANSWERED)
    (killed,) = watched.workers
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: len(watched.workers) == 1 and killed not in watched.workers)
    send(endpoint)
    watched.reaches(4, "strake_requests_total", **ANSWERED)
    assert watched.value("strake_request_duration_seconds_count", provider="custom") == 4
    assert watched.value("strake_first_byte_seconds_count", provider="custom") == 4
    assert watched.value("strake_overhead_seconds_count") == 4
    assert watched.value("strake_processes", half="proxy") == 1
    assert watched.total("strake_master_key_records") == 1
    assert f"metrics bind=127.0.0.1:{watched.port}" in watched.strake.log()
    # Not on the public port.
    assert b"strake_requests" not in httpx.get(f"{watched.strake.url}/metrics").content


@pytest.mark.postgres
@pytest.mark.redis
def test_scrape_sums_workers(
    run_strake: Callable[..., Strake], upstream: Upstream, migrated_url: str, redis_url: str
) -> None:
    watched = Watched(run_strake, DATABASE_URL=migrated_url, REDIS_URL=redis_url, WEB_CONCURRENCY="3")
    endpoint = watched.strake.connect(upstream.url)
    for _ in range(30):
        send(endpoint)
    watched.reaches(30, "strake_requests_total", **ANSWERED)
    assert watched.value("strake_processes", half="proxy") == 3
    assert watched.total("strake_master_key_loaded") == 3
    assert watched.value("strake_database_connections", pool="lookup", state="idle") >= 1
    assert abs(watched.value("strake_clock_difference_seconds")) < 60
    watched.strake.revoke(endpoint)
    send(endpoint)
    watched.reaches(1, "strake_refusals_total", code="invalid_token")


def test_scan_adds_no_series(run_strake: Callable[..., Strake], upstream: Upstream) -> None:
    """Random paths, tokens and endpoints have no series of their own: only numbers rise."""
    watched = Watched(run_strake)
    endpoint = watched.strake.connect(upstream.url)
    send(endpoint)
    with raw.connected(watched.strake.address) as connection:
        for request in scan(endpoint, 200):
            ask(connection, request)
        eventually(lambda: watched.total("strake_refusals_total") >= 150)
        eventually(lambda: watched.total("strake_master_key_records") == 1)
        before = labelled(watched)
        already = watched.total("strake_refusals_total")
        for request in scan(endpoint, SCAN):
            ask(connection, request)
    eventually(lambda: watched.total("strake_refusals_total") >= already + SCAN * 0.7)
    assert labelled(watched) - before == set()


def labelled(watched: Watched) -> set[object]:
    """The series with labels. One without may appear at any time, such as that of the first pruning."""
    return {series for series in watched.scrape() if series[1]}


def scan(endpoint: Endpoint, number: int) -> Iterator[bytes]:
    """Requests for unknown endpoints, and with unknown tokens, wrong methods and random paths for a known one."""
    for turn in range(number):
        path = f"/p/{random.randbytes(6).hex()}" if turn % 4 == 0 else endpoint.path
        token = endpoint.token if turn % 4 == 1 else tokens.mint(BEARER_TOKEN_PREFIX)
        method = random.choice(["GET", "POST", "PATCH"])
        yield (
            f"{method} {path}/{random.randbytes(8).hex()} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
        ).encode()


def ask(connection: socket.socket, request: bytes) -> None:
    """Send a request on a connection that is kept, and read its response."""
    connection.sendall(request)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
