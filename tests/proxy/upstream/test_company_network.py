"""A running Strake whose only way out is a company's proxy, with the company's own certificate authority."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.company_network import ADDRESS, USER
from tests.support.running import ROOT

pytestmark = [pytest.mark.tinyproxy, pytest.mark.namespaces, pytest.mark.slow]


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    command = ["unshare", "-Urnm", sys.executable, "-m", "tests.support.company_network"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    results: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return results


@pytest.mark.parametrize(("mode", "authority"), [("addresses", f"{ADDRESS}:443"), ("names", "provider.example:443")])
def test_everything_goes_through_the_proxy(results: dict[str, Any], mode: str, authority: str) -> None:
    result = results[mode]
    assert result["key_check"].startswith("/openai/")
    assert (result["status"], result["websocket"]) == (200, 101)
    assert set(result["asked"]) == {authority}
    assert len(result["asked"]) >= 3  # the key check, the request and the WebSocket connection


def test_start_says_who_decides_about_addresses(results: dict[str, Any]) -> None:
    assert "egress_proxy_resolves" not in results["addresses"]["log"]
    assert "strake.W005" not in results["addresses"]["log"]
    assert "egress_proxy_resolves" in results["names"]["log"]
    assert "strake.W005" in results["names"]["log"]


def test_password_of_the_proxy_is_in_no_log(results: dict[str, Any]) -> None:
    for result in results.values():
        assert "canary" in USER
        assert "canary" not in result["log"]
