"""The exporter adds up files. It has no environment, reads only code and these files, and ends with its parent."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from strake.metrics import snapshots


def metric(
    kind: str, *values: list[Any], labels: tuple[str, ...] = (), merge: str = "sum", **more: Any
) -> dict[str, Any]:
    return {"kind": kind, "help": "Help.", "labels": labels, "merge": merge, "values": list(values), **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for half in ("proxy", "web"):
        (tmp_path / half).mkdir()
    return tmp_path


@pytest.fixture
def exporter(folder: Path) -> Iterator[str]:
    """The path of a Unix socket on which an exporter serves."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "scrape.sock"))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "strake.metrics.exporter", str(folder), str(listener.fileno())],
            cwd=settings.ROOT,
            env={},
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
        yield str(folder / "scrape.sock")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def scrape(path: str) -> set[str]:
    with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as client:
        return set(client.get("http://strake/metrics", timeout=60).text.splitlines())


def test_values_of_processes_are_added(folder: Path, exporter: str) -> None:
    for number, half in enumerate(["proxy", "proxy", "web"]):
        snapshot = {
            "a_total": metric("counter", [["x"], number + 1], labels=("label",)),
            "waiting": metric("gauge", [[], number + 1]),
            "lag": metric("gauge", [[], number + 1], merge="max"),
            "took_seconds": metric("histogram", [[], [1, 0, number, 2.5]], bounds=[0.005, 1]),
        }
        snapshots.write(folder / half / f"metrics-{number}.json", snapshot, 0o600)
    # A process that was killed long ago, and one that is being killed now.
    dead = folder / "proxy" / "metrics-0.json"
    os.utime(dead, (0, 0))
    (folder / "web" / "metrics-7.json").write_text('{"a_total": ')
    lines = scrape(exporter)
    assert {'a_total{label="x"} 6.0', "waiting 5.0", "lag 3.0"} <= lines
    assert {
        'took_seconds_bucket{le="0.005"} 3.0',
        'took_seconds_bucket{le="1.0"} 3.0',
        'took_seconds_bucket{le="+Inf"} 6.0',
        "took_seconds_count 6.0",
        "took_seconds_sum 7.5",
    } <= lines


def test_exporter_tells_the_version(exporter: str) -> None:
    lines = scrape(exporter)
    assert 'strake_build_info{version="0.1.0"} 1.0' in lines
    assert any(line.startswith("python_info{") for line in lines)


def test_reader_never_sees_half_a_file(folder: Path) -> None:
    path = folder / "proxy" / "metrics-0.json"
    snapshots.write(path, {"a_total": metric("counter", [[], 1])}, 0o640)
    assert path.stat().st_mode & 0o777 == 0o640
    with path.open() as opened:
        snapshots.write(path, {"a_total": metric("counter", [[], 2])}, 0o640)
        assert json.load(opened)["a_total"]["values"] == [[[], 1]]
    assert snapshots.read(path)[0]["a_total"]["values"] == [[[], 2]]
    assert snapshots.read(path)[1] < time.time()
