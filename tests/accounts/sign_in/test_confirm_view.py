"""Opening a link and confirming it: /signin/link/…/ and /signin/confirm/."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from html import unescape

import pytest
import time_machine
from django.db import connections
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts import tokens
from accounts.errors import SessionStoreUnavailable
from accounts.models import AuditEvent, BrowserSession, SignInLink, User
from accounts.sessions import service as sessions
from accounts.sign_in import throttle
from tests.accounts.signing_in import confirm, cookie_name, is_signed_in, operator_link_path, token_in

pytestmark = pytest.mark.django_db


def test_link_signs_in_and_redirects_to_next(
    client: Client, alice: User, request_link: Callable[..., int], mailed_link: Callable[[], str]
) -> None:
    request_link(next="/settings/?tab=1")
    response = client.get(mailed_link())
    assert (response.status_code, response.headers["Location"]) == (303, "/signin/confirm/")
    page = client.get("/signin/confirm/")
    assert "Sign in as alice@example.org" in page.content.decode()
    assert "another browser" not in page.content.decode()
    response = client.post("/signin/confirm/", {"token": page.context["link"].token})
    assert (response.status_code, response.headers["Location"]) == (303, "/settings/?tab=1")
    assert is_signed_in(client)


def test_first_sign_in_creates_the_user(
    client: Client, request_link: Callable[..., int], mailed_link: Callable[[], str]
) -> None:
    request_link("new@example.org", next="/settings/")
    assert confirm(client, mailed_link()) == 303
    user = User.objects.get()
    assert (user.email, user.is_staff) == ("new@example.org", False)
    events = AuditEvent.objects.filter(account=user, actor=user, ip="127.0.0.1")
    assert set(events.values_list("action", flat=True)) == {"user.created", "signin.succeeded"}


@pytest.mark.parametrize("end", ["used", "expired"])
def test_ended_link_offers_another_to_who_asked(
    end: str, client: Client, alice: User, request_link: Callable[..., int], mailed_link: Callable[[], str]
) -> None:
    request_link(next="/settings/")
    path = mailed_link()
    if end == "used":
        confirm(Client(), path)
    else:
        earlier = timezone.now() - timedelta(minutes=16)
        SignInLink.objects.update(created_at=earlier - timedelta(minutes=1), expires_at=earlier)
    client.get(path)
    page = client.get("/signin/confirm/")
    assert page.status_code == 410
    assert "Send another link to alice@example.org" in page.content.decode()
    asked = page.context["asked"]
    assert client.post("/signin/", {"email": asked.email, "next": asked.next_path}).status_code == 303
    assert confirm(client, mailed_link()) == 303


def test_ended_link_tells_a_stranger_no_address(
    client: Client, alice: User, request_link: Callable[..., int], mailed_link: Callable[[], str]
) -> None:
    request_link()
    path = mailed_link()
    confirm(client, path)
    stranger = Client()
    stranger.post("/signin/", {"email": "charlie@example.org"})  # so that this browser has an id of its own
    stranger.get(path)
    for page in (stranger.get("/signin/confirm/"), stranger.post("/signin/confirm/", {"token": token_in(path)})):
        assert page.status_code == 410
        assert "alice@example.org" not in page.content.decode()
    mailed_link()


def test_closed_sign_up_rejects_links_sent_before(
    client: Client, request_link: Callable[..., int], mailed_link: Callable[[], str], settings: Settings
) -> None:
    request_link("new@example.org")
    path = mailed_link()
    settings.STRAKE_SIGNUP = ["closed"]
    assert confirm(client, path) == 410
    assert not User.objects.exists()
    assert SignInLink.objects.get().used_at is None


@pytest.mark.parametrize("method", ["get", "head", "options", "post", "put", "delete"])
def test_opening_a_link_does_not_redeem_it(client: Client, alice: User, method: str) -> None:
    path = operator_link_path()
    for _ in range(100):
        getattr(client, method)(path)
    for _ in range(10):
        scanner = Client()
        scanner.get(path)
        scanner.get("/signin/confirm/")
        scanner.head("/signin/confirm/")
        scanner.options("/signin/confirm/")
    assert SignInLink.objects.get().used_at is None
    assert not BrowserSession.objects.exists()
    assert confirm(client, path) == 303


def test_token_stays_out_of_history_and_caches(client: Client, alice: User) -> None:
    path = operator_link_path()
    opened = client.get(path)
    assert token_in(path) not in opened.headers["Location"]
    cookie = opened.cookies[cookie_name("link")]
    assert (cookie["path"], cookie["httponly"], cookie["samesite"]) == ("/", True, "Lax")
    page = client.get("/signin/confirm/")
    assert opened.headers["Referrer-Policy"] == "no-referrer"
    for response in (opened, page):
        assert response.headers["Cache-Control"] == "no-store"
    done = client.post("/signin/confirm/", {"token": token_in(path)})
    assert done.cookies[cookie_name("link")]["max-age"] == 0


def test_invalid_links_get_identical_responses(client: Client, alice: User) -> None:
    used, good = operator_link_path(), operator_link_path("bob@example.org")
    mistyped = good[:-2] + ("y/" if good[-2] == "x" else "x/")
    assert confirm(Client(), used) == 303
    with time_machine.travel(timezone.now() - timedelta(minutes=16), tick=False):
        expired = operator_link_path()
    unknown = f"/signin/link/{tokens.mint('link_')}/"
    responses = set()
    for path in [used, expired, unknown, mistyped, "/signin/link/x/"]:
        browser = Client()
        browser.get(path)
        seen = browser.get("/signin/confirm/")
        tried = browser.post("/signin/confirm/", {"token": token_in(path)})
        responses.add((seen.status_code, seen.content, tried.status_code, tried.content))
        assert not is_signed_in(browser)
    assert len(responses) == 1
    assert responses.pop()[0] == 410


def test_link_works_until_its_last_second(client: Client, alice: User, settings: Settings) -> None:
    settings.STRAKE_LINK_MINUTES = 15
    start = timezone.now()
    with time_machine.travel(start, tick=False):
        early, late = operator_link_path(), operator_link_path("bob@example.org")
    with time_machine.travel(start + timedelta(minutes=15), tick=False):
        assert confirm(Client(), late) == 410
    with time_machine.travel(start + timedelta(minutes=14, seconds=59), tick=False):
        assert confirm(client, early) == 303


def test_link_works_once(alice: User) -> None:
    path = operator_link_path()
    assert confirm(Client(), path) == 303
    assert confirm(Client(), path) == 410
    assert AuditEvent.objects.filter(action="signin.failed", account=alice).count() == 1


def test_redeeming_invalidates_other_links(alice: User) -> None:
    first, second, other = operator_link_path(), operator_link_path(), operator_link_path("bob@example.org")
    assert confirm(Client(), second) == 303
    assert confirm(Client(), first) == 410
    assert confirm(Client(), other) == 303


@pytest.mark.django_db(transaction=True)
def test_fifty_concurrent_posts_create_one_session() -> None:
    path = operator_link_path()
    statuses: list[int] = []
    barrier = threading.Barrier(50)

    def post() -> None:
        browser = Client()
        barrier.wait()
        try:
            statuses.append(browser.post("/signin/confirm/", {"token": token_in(path)}).status_code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=post) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Requests that come late enough meet the limits of failed attempts.
    assert statuses.count(303) == 1
    assert set(statuses) - {303} <= {410, 429}
    assert len(statuses) == 50
    assert BrowserSession.objects.count() == 1


def test_other_browser_sees_a_warning(
    alice: User, request_link: Callable[..., int], mailed_link: Callable[[], str]
) -> None:
    request_link()
    other = Client()
    other.get(mailed_link())
    page = other.get("/signin/confirm/")
    assert "requested in another browser" in unescape(page.content.decode())
    token = page.context["link"].token
    assert other.post("/signin/confirm/", {"token": token}).status_code == 303


def test_browser_keeps_its_id_for_later_links(
    client: Client, alice: User, request_link: Callable[..., int], mailed_link: Callable[[], str]
) -> None:
    request_link()
    first = mailed_link()
    request_link()
    mailed_link()
    client.get(first)
    assert "another browser" not in client.get("/signin/confirm/").content.decode()


def test_operator_link_has_no_browser(client: Client, alice: User) -> None:
    client.get(operator_link_path())
    assert "another browser" not in client.get("/signin/confirm/").content.decode()


def test_confirming_signs_in_the_person_shown(client: Client) -> None:
    """After a second link is opened in the browser, the first page still signs in the person it shows."""
    alices, bobs = operator_link_path(), operator_link_path("bob@example.org")
    client.get(alices)
    page = client.get("/signin/confirm/")
    client.get(bobs)
    client.post("/signin/confirm/", {"token": page.context["link"].token})
    assert "alice@example.org" in client.get("/settings/").content.decode()


def test_confirming_needs_a_csrf_token(alice: User) -> None:
    path = operator_link_path()
    strict = Client(enforce_csrf_checks=True)
    strict.get(path)
    assert strict.post("/signin/confirm/", {"token": token_in(path)}).status_code == 403
    assert SignInLink.objects.get().used_at is None


def test_planted_session_is_not_signed_in(client: Client, alice: User) -> None:
    """Session fixation: an attacker plants their session in the victim's browser."""
    attacker = Client()
    attacker.force_login(User.objects.create(email="mallory@example.org"))
    planted = attacker.cookies[cookie_name("session")].value
    client.cookies[cookie_name("session")] = planted
    assert confirm(client, operator_link_path()) == 303
    assert client.cookies[cookie_name("session")].value != planted
    assert "alice@example.org" in client.get("/settings/").content.decode()
    assert not is_signed_in(attacker), "the planted session must end, not be shared"


def test_signing_in_again_changes_the_session_key(client: Client, alice: User) -> None:
    confirm(client, operator_link_path())
    before = client.cookies[cookie_name("session")].value
    confirm(client, operator_link_path())
    assert client.cookies[cookie_name("session")].value != before
    assert BrowserSession.objects.count() == 1


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "/\t/evil.example/",
        "/.//evil.example",
        "javascript:alert(1)",
        "settings/",
        "/a\nSet-Cookie: x=y",
        "/a" * 400,
    ],
)
def test_next_to_another_origin_is_ignored(
    alice: User, client: Client, request_link: Callable[..., int], mailed_link: Callable[[], str], target: str
) -> None:
    request_link(next=target)
    path = mailed_link()
    assert SignInLink.objects.get().next_path == ""
    client.get(path)
    response = client.post("/signin/confirm/", {"token": token_in(path)})
    assert response.headers["Location"] == "/endpoints/"


def test_link_stays_valid_if_no_session_starts(alice: User, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    path = operator_link_path()

    def fail(*_: object) -> None:
        raise SessionStoreUnavailable

    monkeypatch.setattr(sessions, "start", fail)
    assert confirm(client, path) == 503
    monkeypatch.undo()
    assert confirm(client, path) == 303


def test_failed_confirmations_are_rate_limited(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "CONFIRMS_PER_ADDRESS", throttle.Limit("confirm-address", 3, 900))
    statuses = [client.post("/signin/confirm/", {"token": "x"}).status_code for _ in range(5)]
    assert statuses == [410, 410, 410, 429, 429]
    assert AuditEvent.objects.filter(action="signin.failed").count() == 3
