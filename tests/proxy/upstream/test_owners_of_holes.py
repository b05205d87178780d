"""Entries of STRAKE_ALLOWED_PRIVATE_UPSTREAMS that are for certain people, in the form and when connecting."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.support.running import Strake
from tests.support.upstream import Upstream


def test_stored_destination_is_open_for_its_owner_only(run_strake: Callable[..., Strake], upstream: Upstream) -> None:
    hole = f"127.0.0.1:{upstream.port}"
    running = run_strake(STRAKE_ALLOWED_PRIVATE_UPSTREAMS=hole)
    alice, mallory = (running.connect(upstream.url, email=f"{name}@example.org") for name in ("alice", "mallory"))
    running.stop()
    running.environment["STRAKE_ALLOWED_PRIVATE_UPSTREAMS"] = f"{hole}=alice@example.org"
    running.start()
    assert httpx.get(f"{alice.url}/x", headers=alice.bearer).status_code == 200
    refused = httpx.get(f"{mallory.url}/x", headers=mallory.bearer)
    assert (refused.status_code, refused.headers["x-strake-error"]) == (502, "upstream_reserved")
    assert len(upstream.exchanges) == 1
    with pytest.raises(RuntimeError, match="for other people"):
        running.connect(upstream.url, email="mallory@example.org")
    running.connect(upstream.url, email="alice@example.org")
