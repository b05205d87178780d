"""A rolling upgrade between two commits of this repository, with the migrations between them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.harness.site import Site
from tests.support.running import ROOT

SERVE = ("manage.py", "serve", "--wait-for-migrations")


def checkout(commit: str, folder: Path) -> Path:
    """The files of a commit."""
    target = folder / "old"
    target.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(target)], input=archive, check=True)
    return target


def upgrade(site: Site) -> None:
    """As docs/operations.md says: new code waits for the migrations, beside a host with the old code."""
    first, second = site.hosts
    first.stop()
    first.on_commit(ROOT, SERVE)
    first.launch()
    first.manage("migrate", "-v0", check=True)  # while the other host serves with the old code
    first.wait_until_ready()
    second.stop()
    second.on_commit(ROOT, SERVE)
    second.start()
    second.wait_until_ready()
