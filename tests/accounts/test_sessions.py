"""Sessions: what ends them, what does not, and what a store holds of them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone
from redis import Redis

from accounts import audit, sessions
from accounts.audit import Actor
from accounts.errors import NotFound
from accounts.models import AuditEvent, BrowserSession, User
from tests.accounts.test_confirm_view import confirm, operator_path
from tests.conftest import OwnRedis

pytestmark = pytest.mark.django_db


@pytest.fixture(params=["database", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest) -> str:
    """Runs a test once per session store."""
    if request.param == "redis":
        request.getfixturevalue("redis")
    return str(request.param)


def sign_in(user: User) -> Client:
    browser = Client(headers={"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"})
    assert confirm(browser, operator_path(user.email)) == 303
    return browser


def is_signed_in(browser: Client) -> bool:
    return browser.get("/settings/").status_code == 200


def key_of(browser: Client) -> str:
    return browser.cookies["strake-session"].value


def test_cookie_is_httponly_lax_and_lives_thirty_days(store: str, alice: User) -> None:
    browser = Client()
    browser.get(operator_path())
    cookie = browser.post("/signin/confirm/", {"token": browser.cookies["strake-link"].value}).cookies["strake-session"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (True, "Lax", "/", "")
    assert 30 * 86400 - 5 <= cookie["max-age"] <= 30 * 86400


def test_signing_out_kills_the_session_at_once(store: str, alice: User) -> None:
    browser = sign_in(alice)
    stolen = Client()
    stolen.cookies["strake-session"] = key_of(browser)
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


def test_session_ends_after_thirty_days_however_much_it_is_used(store: str, alice: User) -> None:
    browser = sign_in(alice)
    start = timezone.now()
    for days in (10, 20, 29):
        with time_machine.travel(start + timedelta(days=days), tick=False):
            session = browser.session
            session["used"] = days
            session.save()
            assert is_signed_in(browser)
    with time_machine.travel(start + timedelta(days=30, seconds=1), tick=False):
        assert not is_signed_in(browser)


def test_raised_epoch_ends_every_session(store: str, alice: User, bob: User) -> None:
    first, second, other = sign_in(alice), sign_in(alice), sign_in(bob)
    assert sessions.revoke_sessions(actor=audit.OPERATOR, user=alice) == 2
    assert not is_signed_in(first)
    assert not is_signed_in(second)
    assert is_signed_in(other)


def test_epoch_counts_even_if_the_store_and_the_list_forget_nothing(alice: User) -> None:
    browser = sign_in(alice)
    User.objects.filter(pk=alice.pk).update(session_epoch=1)
    assert not is_signed_in(browser)


def test_session_that_the_store_brings_back_stays_over(store: str, alice: User) -> None:
    """Redis may lose a deletion when a replica takes over: the list in the database decides."""
    browser = sign_in(alice)
    key, data = key_of(browser), dict(browser.session.items())
    browser.post("/signout/")
    revived = type(browser.session)(key)
    revived._session_cache = data
    revived.save(must_create=True)
    assert revived.exists(key)
    stolen = Client()
    stolen.cookies["strake-session"] = key
    assert not is_signed_in(stolen)


def test_one_session_is_ended_and_the_others_go_on(store: str, alice: User, charlie: User) -> None:
    here, there = sign_in(alice), sign_in(alice)
    row = BrowserSession.objects.exclude(key_digest=sessions.session_digest(key_of(here))).get()
    with pytest.raises(NotFound):
        sessions.end_session(actor=Actor(charlie), session_id=row.pk)
    assert is_signed_in(there)
    sessions.end_session(actor=Actor(alice), session_id=row.pk)
    assert is_signed_in(here)
    assert not is_signed_in(there)


def test_all_others_are_ended(store: str, alice: User, bob: User) -> None:
    here, there, bobs = sign_in(alice), sign_in(alice), sign_in(bob)
    keep = BrowserSession.objects.get(key_digest=sessions.session_digest(key_of(here)))
    assert sessions.end_other_sessions(actor=Actor(alice), keep=keep) == 1
    assert (is_signed_in(here), is_signed_in(there), is_signed_in(bobs)) == (True, False, True)


def test_session_in_the_list_tells_browser_and_address(alice: User) -> None:
    sign_in(alice)
    [row] = sessions.list_sessions(alice)
    assert (row.browser, row.ip) == ("Firefox on Linux", "127.0.0.1")


def test_last_seen_is_noted_once_a_minute(alice: User, django_assert_num_queries: Any) -> None:
    browser = sign_in(alice)
    with django_assert_num_queries(3):  # session, person, place in the list; nothing written
        browser.get("/access-tokens/new/")
    later = timezone.now() + timedelta(minutes=2)
    with time_machine.travel(later, tick=False):
        browser.get("/settings/")
    assert BrowserSession.objects.get().last_seen_at == later


def test_database_holds_no_session_key(alice: User) -> None:
    key = key_of(sign_in(alice))
    [row] = Session.objects.all()
    assert key not in (row.session_key, *BrowserSession.objects.values_list("key_digest", flat=True))
    holder = Client()
    holder.cookies["strake-session"] = row.session_key
    assert not is_signed_in(holder), "what the database holds is no session key"


@pytest.mark.redis
def test_redis_holds_no_session_key_and_plain_json(redis: OwnRedis, alice: User) -> None:
    key = key_of(sign_in(alice))
    with Redis.from_url(redis.url) as direct:
        entries = {name: direct.get(name) for name in direct.keys("*session*")}
        assert len(entries) == 1
        assert key.encode() not in b"".join([*entries, *(value or b"" for value in entries.values())])
        [(name, value)] = entries.items()
        assert value is not None
        assert value.startswith(b"{")
        assert 0 < direct.ttl(name) <= 30 * 86400


@pytest.mark.redis
def test_pickle_planted_in_redis_is_not_run(redis: OwnRedis, alice: User, tmp_path: Path) -> None:
    browser = sign_in(alice)
    trap = tmp_path / "ran"
    with Redis.from_url(redis.url) as direct:
        [name] = direct.keys("*session*")
        direct.set(name, b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR.")
    assert not is_signed_in(browser)
    assert not trap.exists()


@pytest.mark.redis
def test_outage_of_redis_is_a_503_that_touches_no_cookie_and_ends_no_session(redis: OwnRedis, alice: User) -> None:
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


@pytest.mark.redis
def test_link_survives_an_outage_of_redis(redis: OwnRedis, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis dies between counting the try and saving the session: the link must not be used up."""
    path = operator_path()
    browser = Client()
    browser.get(path)
    start = sessions.start

    def start_without_redis(*args: Any) -> None:
        redis.stop()
        start(*args)

    monkeypatch.setattr(sessions, "start", start_without_redis)
    token = browser.cookies["strake-link"].value
    response = browser.post("/signin/confirm/", {"token": token})
    assert (response.status_code, list(response.cookies)) == (503, [])
    monkeypatch.undo()
    redis.start()
    assert browser.post("/signin/confirm/", {"token": token}).status_code == 303


@pytest.mark.redis
def test_request_that_outlives_its_session_does_not_bring_it_back(redis: OwnRedis, alice: User) -> None:
    browser = sign_in(alice)
    late = browser.session
    late["still"] = "running"
    browser.post("/signout/")
    with pytest.raises(UpdateError):
        late.save()
    assert not late.exists(late.session_key)
