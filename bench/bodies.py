"""Large bodies in both directions: gigabytes per second, and what they cost."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.gateways import Gateway, Target, metered
from bench.open_loop import is_complete
from bench.tables import Results, shown, table

CONNECTIONS = 4
_BLOCK = 256 * 1024


def download(target: Target, size: int) -> int:
    """Return how many bytes of the body arrived."""
    with socket.create_connection(target.address, 30) as connection:
        connection.sendall(target.head(f"/v1/download/{size}", 0))
        buffer = bytearray(_BLOCK)
        received = bytearray()
        while b"\r\n\r\n" not in received and (count := connection.recv_into(buffer)):
            received += buffer[:count]
        arrived = len(received.partition(b"\r\n\r\n")[2])
        while arrived < size and (count := connection.recv_into(buffer)):
            arrived += count
        return arrived


def upload(target: Target, size: int) -> int:
    """Return how many bytes of the body the provider says it has received."""
    with socket.create_connection(target.address, 30) as connection:
        connection.sendall(target.head("/v1/upload", size))
        block = memoryview(bytes(_BLOCK))
        left = size
        while left:
            connection.sendall(block[:left])
            left -= min(left, _BLOCK)
        received = b""
        while not is_complete(received) and (data := connection.recv(_BLOCK)):
            received += data
        return size if received.endswith(b'{"received": %d}' % size) else 0


DIRECTIONS: dict[str, Callable[[Target, int], int]] = {"download": download, "upload": upload}


def measure(gateway: Gateway, results: Results, size: int) -> None:
    """Transfer a body on each connection. Raises `RuntimeError` if one does not arrive whole."""
    target = gateway.targets[0]
    for direction, transfer in DIRECTIONS.items():
        transfer(target, _BLOCK)
        with metered(gateway) as spent, ThreadPoolExecutor(CONNECTIONS) as pool:
            begin = time.perf_counter()
            arrived = list(pool.map(lambda _, transfer=transfer: transfer(target, size), range(CONNECTIONS)))
            seconds = time.perf_counter() - begin
        if arrived != [size] * CONNECTIONS:
            raise RuntimeError(f"{gateway.name}: {direction} of {size} bytes ended after {arrived}")
        gigabytes = size * CONNECTIONS / 1e9
        results.add(gateway.name, f"{direction} rate", gigabytes / seconds)
        results.add(gateway.name, f"{direction} cpu", spent.gateway / gigabytes * 1000)


def tables(results: Results, size: int) -> list[str]:
    kinds = (("rate", 2), ("cpu", 0))
    figures = [(f"{direction} {figure}", digits) for direction in DIRECTIONS for figure, digits in kinds]
    rows = [
        [
            name,
            *(shown(results.median(name, figure), digits) for figure, digits in figures),
            *(shown(results.ratio(name, "nginx", f"{direction} rate"), 2) for direction in DIRECTIONS),
        ]
        for name in results.gateways("upload rate")
    ]
    head = ["gateway", "download, GB/s", "CPU, ms/GB", "upload, GB/s", "CPU, ms/GB", "of nginx's rate, down", "up"]
    return [
        "## Large bodies",
        "",
        f"{CONNECTIONS} connections at once, each with a body of {size / 1e6:,.0f} MB.",
        "",
        *table(head, rows),
        "",
    ]
