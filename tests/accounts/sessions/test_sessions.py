"""Sessions: starting and ending them, and the contents of their stores."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, DjangoCaptureOnCommitCallbacks
from redis import Redis

from accounts.actors import OPERATOR, Person
from accounts.errors import NotFound
from accounts.models import AuditEvent, BrowserSession, User
from accounts.outage_log import OutageLog
from accounts.sessions import middleware
from accounts.sessions import service as sessions
from accounts.sessions.store import session_digest
from tests.accounts.signing_in import cookie_name, is_signed_in, operator_link_path, sign_in
from tests.support.services import RedisServer

pytestmark = pytest.mark.django_db


@pytest.fixture(params=["database", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest) -> str:
    """Runs a test with each session store."""
    if request.param == "redis":
        request.getfixturevalue("redis")
    return str(request.param)


def session_key(browser: Client) -> str:
    return browser.cookies[cookie_name("session")].value


def test_cookie_is_httponly_lax_and_lasts_30_days(store: str, alice: User) -> None:
    browser = Client()
    browser.get(operator_link_path())
    cookie = browser.post("/signin/confirm/", {"token": browser.cookies[cookie_name("link")].value}).cookies[
        cookie_name("session")
    ]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (True, "Lax", "/", "")
    assert 30 * 86400 - 5 <= cookie["max-age"] <= 30 * 86400


def test_signing_out_ends_the_session_at_once(store: str, alice: User) -> None:
    browser = sign_in(alice)
    stolen = Client()
    stolen.cookies[cookie_name("session")] = session_key(browser)
    assert is_signed_in(stolen)
    response = browser.post("/signout/")
    assert (response.status_code, response.headers["Location"]) == (303, "/signin/")
    assert not is_signed_in(stolen)
    assert not is_signed_in(browser)
    assert AuditEvent.objects.filter(action="session.signed_out", actor=alice).count() == 1


def test_get_does_not_sign_out(alice: User) -> None:
    browser = sign_in(alice)
    assert browser.get("/signout/").status_code == 405
    assert is_signed_in(browser)


def test_signing_out_needs_a_csrf_token(alice: User) -> None:
    browser = sign_in(alice)
    browser.handler.enforce_csrf_checks = True
    assert browser.post("/signout/").status_code == 403
    assert is_signed_in(browser)


def test_session_ends_after_30_days_despite_use(store: str, alice: User) -> None:
    browser = sign_in(alice)
    start = timezone.now()
    for days in (10, 20, 29):
        with time_machine.travel(start + timedelta(days=days), tick=False):
            session = browser.session
            session["used"] = days
            session.save()
            assert is_signed_in(browser)
    row = BrowserSession.objects.get(user=alice)
    assert start + timedelta(days=29) < row.expires_at <= start + timedelta(days=30)
    BrowserSession.objects.update(expires_at=row.expires_at - timedelta(days=30, seconds=1))
    assert not is_signed_in(browser)


def test_host_with_a_wrong_clock_ends_no_session(alice: User) -> None:
    browser = sign_in(alice)
    row = BrowserSession.objects.get(user=alice)
    with time_machine.travel(timezone.now() + timedelta(days=31), tick=False):
        assert list(BrowserSession.objects.live()) == [row]
    assert is_signed_in(browser)


def test_raised_epoch_ends_every_session(store: str, alice: User, bob: User) -> None:
    first, second, other = sign_in(alice), sign_in(alice), sign_in(bob)
    assert sessions.revoke_sessions(actor=OPERATOR, user=alice) == 2
    assert not is_signed_in(first)
    assert not is_signed_in(second)
    assert is_signed_in(other)


def test_epoch_ends_sessions_that_have_rows(alice: User) -> None:
    browser = sign_in(alice)
    User.objects.filter(pk=alice.pk).update(session_epoch=1)
    assert not is_signed_in(browser)


def test_session_restored_by_the_store_stays_ended(store: str, alice: User) -> None:
    """Redis may lose a deletion in a failover. The rows in the database decide."""
    browser = sign_in(alice)
    key, data = session_key(browser), dict(browser.session.items())
    browser.post("/signout/")
    revived = type(browser.session)(key)
    revived._session_cache = data  # type: ignore[attr-defined]
    revived.save(must_create=True)
    assert revived.exists(key)
    stolen = Client()
    stolen.cookies[cookie_name("session")] = key
    assert not is_signed_in(stolen)


def test_ending_one_session_keeps_the_others(store: str, alice: User, charlie: User) -> None:
    here, there = sign_in(alice), sign_in(alice)
    row = BrowserSession.objects.exclude(key_digest=session_digest(session_key(here))).get()
    with pytest.raises(NotFound):
        sessions.end_session(actor=Person(charlie), session_id=row.pk)
    assert is_signed_in(there)
    sessions.end_session(actor=Person(alice), session_id=row.pk)
    assert is_signed_in(here)
    assert not is_signed_in(there)


def test_ending_all_other_sessions(store: str, alice: User, bob: User) -> None:
    here, there, bobs = sign_in(alice), sign_in(alice), sign_in(bob)
    keep = BrowserSession.objects.get(key_digest=session_digest(session_key(here)))
    assert sessions.end_other_sessions(actor=Person(alice), keep=keep) == 1
    assert (is_signed_in(here), is_signed_in(there), is_signed_in(bobs)) == (True, False, True)


def test_listed_session_has_browser_and_address(alice: User) -> None:
    sign_in(alice)
    [row] = sessions.list_sessions(alice)
    assert (row.browser, row.ip) == ("Firefox on Linux", "127.0.0.1")


def test_last_seen_is_updated_once_a_minute(alice: User, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    browser = sign_in(alice)
    with django_assert_num_queries(3):  # session, user and row, and no write
        browser.get("/access-tokens/new/")
    later = timezone.now() + timedelta(minutes=2)
    with time_machine.travel(later, tick=False):
        browser.get("/settings/")
    assert BrowserSession.objects.get().last_seen_at == later


def test_database_contains_no_session_key(alice: User) -> None:
    key = session_key(sign_in(alice))
    [row] = Session.objects.all()
    assert key not in (row.session_key, *BrowserSession.objects.values_list("key_digest", flat=True))
    holder = Client()
    holder.cookies[cookie_name("session")] = row.session_key
    assert not is_signed_in(holder), "the stored digest must not work as a session key"


@pytest.mark.redis
def test_redis_contains_json_and_no_session_key(redis: RedisServer, alice: User) -> None:
    key = session_key(sign_in(alice))
    with Redis.from_url(redis.url) as direct:
        entries = {name: direct.get(name) for name in direct.keys("*session*")}
        assert len(entries) == 1
        assert key.encode() not in b"".join([*entries, *(value or b"" for value in entries.values())])
        [(name, value)] = entries.items()
        assert value is not None
        assert value.startswith(b"{")
        assert 0 < direct.ttl(name) <= 30 * 86400


@pytest.mark.redis
def test_pickle_planted_in_redis_is_not_loaded(redis: RedisServer, alice: User, tmp_path: Path) -> None:
    browser = sign_in(alice)
    trap = tmp_path / "ran"
    with Redis.from_url(redis.url) as direct:
        [name] = direct.keys("*session*")
        direct.set(name, b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR.")
    assert not is_signed_in(browser)
    assert not trap.exists()


@pytest.mark.redis
def test_redis_outage_is_a_503_and_ends_no_session(
    redis: RedisServer, alice: User, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = OutageLog(logging.getLogger(__name__), "pages_unavailable", "pages_back")
    monkeypatch.setattr(middleware, "_outage", outage)  # another test may have left it in an outage
    browser = sign_in(alice)
    redis.stop()
    attempts = [
        ("get", "/settings/", {}),
        ("post", "/signout/", {}),
        ("post", "/signin/", {"email": "alice@example.org"}),
        ("post", "/signin/confirm/", {"token": "x"}),
        ("get", "/signin/", {}),
    ]
    for method, path, data in attempts:
        response = getattr(browser, method)(path, data)
        assert (response.status_code, path) == (503, path)
        assert not response.cookies, path
        assert "still signed in" in response.content.decode()
        assert response.headers["Retry-After"]
    assert Client().post("/signin/", {"email": "alice@example.org"}).status_code == 503
    assert Client().get("/signin/").status_code == 200
    redis.start()
    assert is_signed_in(browser)
    assert [message.partition(" ")[0] for message in caplog.messages] == ["pages_unavailable", "pages_back"]
    assert caplog.messages[1].endswith(f"failures={len(attempts) + 1}")


@pytest.mark.redis
def test_link_survives_a_redis_outage(redis: RedisServer, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis fails between counting the attempt and saving the session. The link must stay valid."""
    path = operator_link_path()
    browser = Client()
    browser.get(path)
    start = sessions.start

    def start_without_redis(*args: Any) -> None:
        redis.stop()
        start(*args)

    monkeypatch.setattr(sessions, "start", start_without_redis)
    token = browser.cookies[cookie_name("link")].value
    response = browser.post("/signin/confirm/", {"token": token})
    assert (response.status_code, list(response.cookies)) == (503, [])
    monkeypatch.undo()
    redis.start()
    assert browser.post("/signin/confirm/", {"token": token}).status_code == 303


@pytest.mark.redis
def test_redis_outage_after_sign_out_is_logged(
    redis: RedisServer,
    alice: User,
    caplog: pytest.LogCaptureFixture,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    """The row is gone, so the session has ended although Redis still has its entry."""
    browser = sign_in(alice)
    with django_capture_on_commit_callbacks() as callbacks:
        assert sessions.revoke_sessions(actor=OPERATOR, user=alice) == 1
    redis.stop()
    for callback in callbacks:
        callback()
    assert "entries of ended sessions remain" in caplog.text
    redis.start()
    assert not is_signed_in(browser)


@pytest.mark.redis
def test_late_request_cannot_restore_its_session(redis: RedisServer, alice: User) -> None:
    browser = sign_in(alice)
    late = browser.session
    late["still"] = "running"
    browser.post("/signout/")
    with pytest.raises(UpdateError):
        late.save()
    assert late.session_key
    assert not late.exists(late.session_key)
