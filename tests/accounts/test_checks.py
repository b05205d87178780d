"""System checks: each reports its mistake and accepts valid settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from accounts import checks

STARTUP = """
import django; django.setup()
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.core.checks import run_checks
print(len(user_logged_in.receivers), len(user_logged_out.receivers), [message.id for message in run_checks()])
"""


def test_startup_registers_checks_and_receivers(tmp_path: Path) -> None:
    """In a new process, because importing these modules here registers them too."""
    environment = {**os.environ, "STRAKE_HOME": str(tmp_path), "STRAKE_SIGNUP": "opne"}
    done = subprocess.run([sys.executable, "-c", STARTUP], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 1 ")
    assert "'accounts.E001'" in done.stdout


def ids(found: list[Any]) -> list[str]:
    return [message.id for message in found]


def test_default_settings_pass() -> None:
    for check in (checks.check_signup, checks.check_session_cookie, checks.check_cache_serializer):
        assert check(None) == []


@pytest.mark.parametrize("words", [["open", "example.org"], ["opne"], ["closed", "a@b.org"], ["a@b"], ["exa mple.org"]])
def test_invalid_sign_up_policy_is_reported(settings: Settings, words: list[str]) -> None:
    settings.STRAKE_SIGNUP = words
    assert set(ids(checks.check_signup(None))) == {"accounts.E001"}


@pytest.mark.parametrize("words", [["open"], ["closed"], ["example.org", "Ann@Example.com", "@example.net"]])
def test_valid_sign_up_policy_passes(settings: Settings, words: list[str]) -> None:
    settings.STRAKE_SIGNUP = words
    assert checks.check_signup(None) == []


def test_insecure_session_cookie_is_reported(settings: Settings) -> None:
    settings.HTTPS = True
    assert ids(checks.check_session_cookie(None)) == ["accounts.E002"]
    settings.SESSION_COOKIE_SECURE, settings.SESSION_COOKIE_NAME = True, "__Host-strake-session"
    assert checks.check_session_cookie(None) == []
    settings.SESSION_COOKIE_HTTPONLY = False
    assert ids(checks.check_session_cookie(None)) == ["accounts.E002"]


QUOTED = '"Strake <strake@example.org>"'


@pytest.mark.parametrize(
    "sender", [QUOTED, "'Strake <a@b.org>'", "strake", "Strake <>", "Strake <a@b.org> x", "a b@c.org"]
)
def test_sender_that_is_no_address_is_reported(settings: Settings, sender: str) -> None:
    settings.STRAKE_MAIL_FROM = sender
    assert ids(checks.check_sender(None)) == ["accounts.E004"]
    settings.EMAIL_BACKEND = "accounts.sign_in.mail.TerminalBackend"
    assert checks.check_sender(None) == []


@pytest.mark.parametrize("sender", ["strake@example.org", "Strake <strake@example.org>", '"Strake, Inc." <a@b.org>'])
def test_sender_passes(settings: Settings, sender: str) -> None:
    settings.STRAKE_MAIL_FROM = sender
    assert checks.check_sender(None) == []


def test_pickle_in_redis_is_reported(settings: Settings) -> None:
    settings.CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1"}}
    assert ids(checks.check_cache_serializer(None)) == ["accounts.E003"]
    del settings.CACHES
