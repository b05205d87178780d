"""System checks: each fires on the mistake it is for, and only then."""

from __future__ import annotations

from typing import Any

import pytest

from accounts import checks


def ids(found: list[Any]) -> list[str]:
    return [message.id for message in found]


def test_the_shipped_settings_pass() -> None:
    for check in (checks.check_signup, checks.check_session_cookie, checks.check_cache_serialiser):
        assert check(None) == []


@pytest.mark.parametrize("words", [["open", "example.org"], ["opne"], ["closed", "a@b.org"], ["a@b"], ["exa mple.org"]])
def test_misspelt_sign_up_policy_is_reported(settings: Any, words: list[str]) -> None:
    settings.STRAKE_SIGNUP = words
    assert set(ids(checks.check_signup(None))) == {"accounts.E001"}


@pytest.mark.parametrize("words", [["open"], ["closed"], ["example.org", "Ann@Example.com", "@example.net"]])
def test_policies_that_make_sense_pass(settings: Any, words: list[str]) -> None:
    settings.STRAKE_SIGNUP = words
    assert checks.check_signup(None) == []


def test_lax_cookie_is_reported(settings: Any) -> None:
    settings.HTTPS = True
    assert ids(checks.check_session_cookie(None)) == ["accounts.E002"]
    settings.SESSION_COOKIE_SECURE, settings.SESSION_COOKIE_NAME = True, "__Host-strake-session"
    assert checks.check_session_cookie(None) == []
    settings.SESSION_COOKIE_HTTPONLY = False
    assert ids(checks.check_session_cookie(None)) == ["accounts.E002"]


def test_pickle_in_redis_is_reported(settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1"}}
    assert ids(checks.check_cache_serialiser(None)) == ["accounts.E003"]
    del settings.CACHES
