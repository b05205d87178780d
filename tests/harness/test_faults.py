"""A short run of the faults: two hosts behind HAProxy, of which one loses a worker."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.running import ROOT


@pytest.mark.slow
@pytest.mark.machines
@pytest.mark.postgres
@pytest.mark.redis
def test_killed_worker_costs_only_what_it_had_in_flight() -> None:
    command = [sys.executable, "-m", "tests.harness.faults", "--only", "a worker", "--log"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=540, check=False)
    assert result.returncode == 0, result.stderr
    row = result.stdout.strip().splitlines()[-1].split("|")
    failed_calls, broken_streams, failed_pages = (int(row[cell].split(" of ")[0]) for cell in (2, 4, 5))
    assert failed_calls <= 10, result.stdout
    assert broken_streams <= 30, result.stdout
    assert failed_pages == 0, result.stdout
