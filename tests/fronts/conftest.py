"""A Strake behind one trusted proxy: nginx, or each of those that the variable FRONTS names."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support import fronts
from tests.support.fronts import Front
from tests.support.running import Endpoint, Strake
from tests.support.upstream import Upstream

NAMES = os.environ.get("FRONTS", "nginx").split(",")


@pytest.fixture(scope="session")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strake]:
    """A Strake that trusts the address that one reverse proxy sends."""
    with Strake(tmp_path_factory.mktemp("behind") / "strake", {"STRAKE_TRUSTED_PROXIES": "1"}) as running:
        yield running


@pytest.fixture(scope="session", params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in NAMES])
def front(request: pytest.FixtureRequest, behind: Strake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A reverse proxy with the documented configuration."""
    folder = tmp_path_factory.mktemp("front") / request.param
    with fronts.front(request.param, behind.port, folder) as running:
        yield running


@pytest.fixture
def endpoint(behind: Strake, upstream: Upstream) -> Endpoint:
    """An endpoint behind the reverse proxy."""
    return behind.connect(upstream.url)
