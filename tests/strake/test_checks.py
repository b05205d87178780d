"""The domain of endpoints must be no relative of the dashboard's host."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from pytest_django import Settings

from strake import checks
from tests.support.running import Strake


@pytest.mark.parametrize(
    ("base", "domain", "expected"),
    [
        ("https://strake.example.org", "", []),
        ("https://strake.example.org", "strake-endpoints.net", []),
        ("https://strake.example.org", "strake.example.org", ["strake.E001"]),
        ("https://strake.example.org", "p.strake.example.org", ["strake.E001"]),
        ("https://strake.example.org", "example.org", ["strake.E001"]),
        ("https://a.b.strake.example.org:8443", "strake.example.org", ["strake.E001"]),
        ("https://strake.example.org", "endpoints.example.org", ["strake.W001"]),
        ("https://strake.example.org", "a.b.example.org", ["strake.W001"]),
        ("https://strake.example.org", "notstrake.example.org", ["strake.W001"]),
        ("https://strake.example.co.uk", "endpoints.example.co.uk", ["strake.W001"]),
        ("https://strake.co.uk", "endpoints.co.uk", []),
        ("https://strake.github.io", "endpoints.github.io", []),
        ("https://strake.internal", "endpoints.internal", []),
        ("http://localhost:8000", "endpoints.localhost", []),
        ("http://localhost:8000", "localhost", ["strake.E001"]),
        ("http://127.0.0.1:8000", "endpoints.localhost", []),
        ("http://[::1]:8000", "endpoints.localhost", []),
    ],
)
def test_related_domains_are_reported(base: str, domain: str, expected: list[str], settings: Settings) -> None:
    settings.STRAKE_BASE = urlsplit(base)
    settings.STRAKE_PROXY_DOMAIN = domain
    assert [found.id for found in checks.check_domains() + checks.check_sites()] == expected


def test_strake_does_not_start_with_overlapping_domains(strake: Strake) -> None:
    other = Strake(strake.home, {"STRAKE_BASE_URL": "http://localhost:1", "STRAKE_PROXY_DOMAIN": "localhost"})
    done = other.manage("check")
    assert done.returncode == 1
    assert "(strake.E001)" in done.stderr
