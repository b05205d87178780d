"""System checks of what endpoints may reach."""

from __future__ import annotations

import pytest
from django.core.checks import run_checks
from pytest_django import Settings


def reported(settings: Settings, *entries: str, signup: str = "open") -> list[str]:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = list(entries)
    settings.STRAKE_SIGNUP = [signup]
    messages = run_checks(tags=["strake"], include_deployment_checks=True)
    return [message.msg for message in messages if message.id == "credentials.E010"]


@pytest.mark.django_db
@pytest.mark.parametrize("entry", ["10.0.0.0/8", "10.0.0.0/8:443", "10.1.0.0/23:1-9", "fd00::/8:80", "127.0.0.1/32"])
def test_wide_entry_with_open_signup_is_an_error(entry: str, settings: Settings) -> None:
    (message,) = reported(settings, "ollama.lan:11434", entry)
    assert message.endswith(f" to {entry}.")
    assert not reported(settings, entry, signup="example.org")
    assert not reported(settings, f"{entry}=@example.org")


@pytest.mark.django_db
@pytest.mark.parametrize("entry", ["ollama.lan:11434", "localhost:11434", "10.1.2.0/24:8000", "[fd00::1]:80"])
def test_narrow_entry_is_no_error(entry: str, settings: Settings) -> None:
    assert not reported(settings, entry)
