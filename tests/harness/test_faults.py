"""A short run of the two hosts behind HAProxy, without a fault: nothing fails, and no record is lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.running import ROOT


@pytest.mark.slow
@pytest.mark.machines
def test_two_hosts_lose_nothing_without_a_fault() -> None:
    command = [sys.executable, "-m", "tests.harness.faults", "--only", "none", "--seconds", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| none | 0 of " in done.stdout
