"""A process without file descriptors says so in the log."""

from __future__ import annotations

import os
import resource

import pytest

from proxy.descriptors import DescriptorWatch


def test_exhausted_descriptors_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = DescriptorWatch()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        for _ in range(3):
            watch.look()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    watch.look()
    exhausted, free = caplog.messages
    assert exhausted == f"descriptors_exhausted limit={limits[0]} kind=OSError"
    assert free.startswith("descriptors_free seconds=")
    assert free.endswith("failures=3")
