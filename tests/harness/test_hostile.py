"""A short run of the hostile account: its neighbour has no failure and loses no record."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from tests.harness.attacks import silent_server
from tests.harness.hostile import Site, environment_for
from tests.support.running import Strake
from tests.support.upstream import Upstream, eventually


@pytest.mark.slow
def test_neighbour_of_a_hostile_account_loses_nothing(upstream: Upstream) -> None:
    with (
        silent_server() as hole,
        tempfile.TemporaryDirectory() as folder,
        Strake(Path(folder) / "home", environment_for(upstream)) as strake,
    ):
        site = Site(strake, upstream, hole, names=0)
        with site.attacked("refusals", 0.2) as attack:
            report = asyncio.run(site.neighbour.live(2.0))
        assert report.failures == []
        assert report.calls
        assert report.pages
        assert report.streams >= 3
        assert report.sign_ins == 2
        eventually(lambda: site.recorded() == report.recorded, 20)
    assert attack["sent"] > 0
    assert attack["outcomes"].get("401", 0) + attack["outcomes"].get("429", 0) > 0
