"""Fixtures for tests of the dashboard."""

from __future__ import annotations

import pytest
from django.test import Client
from pytest_django import Settings

from accounts.models import User
from tests.support.upstream import Upstream


@pytest.fixture
def signed_in(client: Client, alice: User) -> Client:
    """A browser in which Alice is signed in."""
    client.force_login(alice)
    return client


@pytest.fixture
def provider(upstream: Upstream, settings: Settings) -> Upstream:
    """The scriptable upstream in place of the demo provider, so that a real server checks the keys."""
    settings.STRAKE_DEMO_PORT = upstream.port
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"127.0.0.1:{upstream.port}"]
    return upstream
