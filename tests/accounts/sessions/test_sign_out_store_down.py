"""Ending sessions while their store fails: the rows decide, and the store is cleaned up if possible."""

from __future__ import annotations

import logging

import pytest
from django.test import Client

from accounts.actors import OPERATOR
from accounts.errors import SessionStoreUnavailable
from accounts.models import BrowserSession, User
from accounts.sessions import service
from accounts.sessions.cache import SessionStore
from tests.accounts.signing_in import cookie_name
from tests.support import factories
from tests.support.services import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def user(redis: RedisServer) -> User:
    return factories.make_user()


@pytest.fixture
def browser(user: User) -> Client:
    browser = Client()
    browser.force_login(user)
    return browser


def is_signed_in(browser: Client) -> bool:
    return browser.get("/settings/").status_code == 200


def warnings(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.levelno == logging.WARNING and record.name == service.__name__ for record in caplog.records)


def test_sign_out_succeeds_if_cleaning_up_fails(
    browser: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stolen = Client()
    stolen.cookies[cookie_name("session")] = browser.cookies[cookie_name("session")].value
    delete_digest = SessionStore.delete_digest
    failed: list[str] = []

    def fail_once(digest: str) -> None:
        if not failed:
            failed.append(digest)
            raise SessionStoreUnavailable
        delete_digest(digest)

    monkeypatch.setattr(SessionStore, "delete_digest", staticmethod(fail_once))
    assert browser.post("/signout/").status_code in {302, 303}
    assert len(failed) == 1
    assert warnings(caplog) == 1
    assert not is_signed_in(browser)
    assert not is_signed_in(stolen)


def test_sessions_are_revoked_while_redis_is_down(
    redis: RedisServer, browser: Client, user: User, caplog: pytest.LogCaptureFixture
) -> None:
    assert is_signed_in(browser)
    redis.stop()
    assert service.revoke_sessions(actor=OPERATOR, user=user) == 1
    assert warnings(caplog) == 1
    assert not BrowserSession.objects.exists()
    redis.start()
    assert not is_signed_in(browser)
