"""Names that get no answer hold up their owner's requests only, with a real DNS server that is silent."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.running import ROOT


@pytest.mark.namespaces
@pytest.mark.slow
def test_silent_names_do_not_hold_up_a_neighbour() -> None:
    command = ["unshare", "-Urnm", sys.executable, "-m", "tests.support.silent_names"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {status for status, _ in result["neighbour"]} == {200}
    # A request that waited for a silent name would take ten seconds.
    assert max(seconds for _, seconds in result["neighbour"]) < 5
    assert {status for status, _ in result["others"]} == {429, 502}
    assert len(result["asked"]) <= 6
    assert "never retrieved" not in result["log"]
