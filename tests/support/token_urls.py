"""Loopback URLs of token servers. A module of its own, so that a Strake which imports it holds no secret of a test."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit


def urls_on(server: str, real: Mapping[str, str]) -> dict[str, str]:
    """The token servers' URLs with another origin."""
    return {kind: f"{server}{urlsplit(url).path}" for kind, url in real.items()}
