"""`make container` builds the image and runs it, as root. Otherwise, tests only check its files."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.container import podman
from tests.support.upstream import Upstream

IS_BUILDING = "CONTAINER" in os.environ
collect_ignore = [] if IS_BUILDING else ["test_image.py", "test_compose.py", "test_kubernetes.py"]


@pytest.fixture(scope="session")
def image() -> str:
    """The name of the image, which is built once."""
    podman.build()
    return podman.IMAGE


@pytest.fixture(scope="session")
def outside() -> Iterator[Upstream]:
    """A provider on the host, which containers reach as `host.containers.internal`."""
    with Upstream(host="0.0.0.0") as running:
        yield running


@pytest.fixture
def provider(outside: Upstream) -> str:
    """The URL of that provider, for containers."""
    outside.clear()
    return f"http://host.containers.internal:{outside.port}"
