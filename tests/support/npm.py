"""Packages from the npm registry."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import REQUIRE_SERVICES


def install(folder: Path, *packages: str) -> None:
    """Install pinned packages into a folder. Skips the test without the registry, unless services are required."""
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", *packages]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, timeout=110, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        if REQUIRE_SERVICES:
            raise
        pytest.skip("the npm registry cannot be reached")
