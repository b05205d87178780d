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

from accounts import links, sessions, tokens
from accounts.errors import StoreUnavailable
from accounts.models import AuditEvent, BrowserSession, SignInLink, User

pytestmark = pytest.mark.django_db


def operator_path(email: str = "alice@example.org") -> str:
    return links.operator_link(email=email).removeprefix("http://localhost:8000")


def token_in(path: str) -> str:
    return path.split("/")[3]


def confirm(client: Client, path: str) -> int:
    client.get(path)
    return client.post("/signin/confirm/", {"token": token_in(path)}).status_code


def signed_in(client: Client) -> bool:
    return client.get("/settings/").status_code == 200


def test_link_signs_in_and_leads_where_the_person_wanted(
    client: Client, alice: User, ask: Callable[..., int], mailed_link: Callable[[], str]
) -> None:
    ask(next="/settings/?tab=1")
    response = client.get(mailed_link())
    assert (response.status_code, response.headers["Location"]) == (303, "/signin/confirm/")
    page = client.get("/signin/confirm/")
    assert "Sign in as alice@example.org" in page.content.decode()
    assert "not the browser" not in page.content.decode()
    response = client.post("/signin/confirm/", {"token": page.context["link"].token})
    assert (response.status_code, response.headers["Location"]) == (303, "/settings/?tab=1")
    assert signed_in(client)


def test_first_sign_in_makes_the_account(
    client: Client, ask: Callable[..., int], mailed_link: Callable[[], str]
) -> None:
    ask("new@example.org", next="/settings/")
    assert confirm(client, mailed_link()) == 303
    user = User.objects.get()
    assert (user.email, user.is_staff) == ("new@example.org", False)
    events = AuditEvent.objects.filter(account=user, actor=user, ip="127.0.0.1")
    assert set(events.values_list("action", flat=True)) == {"user.created", "signin.succeeded"}


def test_account_is_not_made_where_sign_up_was_closed_meanwhile(
    client: Client, ask: Callable[..., int], mailed_link: Callable[[], str], settings: object
) -> None:
    ask("new@example.org")
    path = mailed_link()
    settings.STRAKE_SIGNUP = ["closed"]  # type: ignore[attr-defined]
    assert confirm(client, path) == 410
    assert not User.objects.exists()
    assert SignInLink.objects.get().used_at is None


@pytest.mark.parametrize("method", ["get", "head", "options", "post", "put", "delete"])
def test_opening_a_link_a_hundred_times_does_not_use_it_up(client: Client, alice: User, method: str) -> None:
    path = operator_path()
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


def test_token_leaves_the_address_bar_and_stays_out_of_caches(client: Client, alice: User) -> None:
    path = operator_path()
    opened = client.get(path)
    assert token_in(path) not in opened.headers["Location"]
    cookie = opened.cookies["strake-link"]
    assert (cookie["path"], cookie["httponly"], cookie["samesite"]) == ("/signin/", True, "Lax")
    page = client.get("/signin/confirm/")
    assert opened.headers["Referrer-Policy"] == "no-referrer"
    for response in (opened, page):
        assert response.headers["Cache-Control"] == "no-store"
    done = client.post("/signin/confirm/", {"token": token_in(path)})
    assert done.cookies["strake-link"]["max-age"] == 0


def test_expired_used_unknown_and_mangled_links_look_the_same(client: Client, alice: User) -> None:
    used, typo = operator_path(), operator_path("bob@example.org")
    assert confirm(Client(), used) == 303
    with time_machine.travel(timezone.now() - timedelta(minutes=16), tick=False):
        expired = operator_path()
    unknown = f"/signin/link/{tokens.mint('link_')}/"
    answers = set()
    for path in [used, expired, unknown, typo[:-2] + "x/", "/signin/link/x/"]:
        browser = Client()
        browser.get(path)
        seen = browser.get("/signin/confirm/")
        tried = browser.post("/signin/confirm/", {"token": token_in(path)})
        answers.add((seen.status_code, seen.content, tried.status_code, tried.content))
        assert not signed_in(browser)
    assert len(answers) == 1
    assert answers.pop()[0] == 410


def test_link_works_until_its_last_second(client: Client, alice: User, settings: object) -> None:
    settings.STRAKE_LINK_MINUTES = 15  # type: ignore[attr-defined]
    start = timezone.now()
    with time_machine.travel(start, tick=False):
        early, late = operator_path(), operator_path("bob@example.org")
    with time_machine.travel(start + timedelta(minutes=15), tick=False):
        assert confirm(Client(), late) == 410
    with time_machine.travel(start + timedelta(minutes=14, seconds=59), tick=False):
        assert confirm(client, early) == 303


def test_link_works_once(alice: User) -> None:
    path = operator_path()
    assert confirm(Client(), path) == 303
    assert confirm(Client(), path) == 410
    assert AuditEvent.objects.filter(action="signin.failed", account=alice).count() == 1


def test_success_uses_up_the_other_links_of_the_address(alice: User) -> None:
    first, second, other = operator_path(), operator_path(), operator_path("bob@example.org")
    assert confirm(Client(), second) == 303
    assert confirm(Client(), first) == 410
    assert confirm(Client(), other) == 303


@pytest.mark.django_db(transaction=True)
def test_fifty_posts_at_once_give_one_session() -> None:
    path = operator_path()
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
    assert sorted(statuses) == [303] + [410] * 49
    assert BrowserSession.objects.count() == 1


def test_other_browser_is_told(alice: User, ask: Callable[..., int], mailed_link: Callable[[], str]) -> None:
    ask()
    other = Client()
    other.get(mailed_link())
    page = other.get("/signin/confirm/")
    assert "not the browser that asked" in unescape(page.content.decode())
    token = page.context["link"].token
    assert other.post("/signin/confirm/", {"token": token}).status_code == 303


def test_link_of_an_operator_belongs_to_no_browser(client: Client, alice: User) -> None:
    client.get(operator_path())
    assert "not the browser" not in client.get("/signin/confirm/").content.decode()


def test_the_page_shown_is_what_is_confirmed(client: Client) -> None:
    """Two links opened in one browser: the token is in the page, so the first page still signs in its own person."""
    alices, bobs = operator_path(), operator_path("bob@example.org")
    client.get(alices)
    page = client.get("/signin/confirm/")
    client.get(bobs)
    client.post("/signin/confirm/", {"token": page.context["link"].token})
    assert "alice@example.org" in client.get("/settings/").content.decode()


def test_confirming_needs_a_csrf_token(alice: User) -> None:
    path = operator_path()
    strict = Client(enforce_csrf_checks=True)
    strict.get(path)
    assert strict.post("/signin/confirm/", {"token": token_in(path)}).status_code == 403
    assert SignInLink.objects.get().used_at is None


def test_session_known_before_sign_in_is_worthless_after(client: Client, alice: User) -> None:
    """Session fixation: an attacker plants a session of their own in the victim's browser."""
    attacker = Client()
    attacker.force_login(User.objects.create(email="mallory@example.org"))
    planted = attacker.cookies["strake-session"].value
    client.cookies["strake-session"] = planted
    assert confirm(client, operator_path()) == 303
    assert client.cookies["strake-session"].value != planted
    assert "alice@example.org" in client.get("/settings/").content.decode()
    assert not signed_in(attacker), "the planted session is over, not shared"


def test_signing_in_again_changes_the_session_key(client: Client, alice: User) -> None:
    confirm(client, operator_path())
    before = client.cookies["strake-session"].value
    confirm(client, operator_path())
    assert client.cookies["strake-session"].value != before
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
def test_next_leads_nowhere_else(
    alice: User, client: Client, ask: Callable[..., int], mailed_link: Callable[[], str], target: str
) -> None:
    ask(next=target)
    path = mailed_link()
    assert SignInLink.objects.get().next_path == ""
    client.get(path)
    response = client.post("/signin/confirm/", {"token": token_in(path)})
    assert response.headers["Location"] == "/endpoints/"


def test_link_is_not_used_up_when_the_session_cannot_be_made(
    alice: User, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = operator_path()

    def fail(*_: object) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(sessions, "start", fail)
    assert confirm(client, path) == 503
    monkeypatch.undo()
    assert confirm(client, path) == 303


def test_failed_confirmations_are_limited_by_address(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from accounts import limits

    monkeypatch.setattr(limits, "CONFIRMS_PER_ADDRESS", limits.Limit("confirm-address", 3, 900))
    statuses = [client.post("/signin/confirm/", {"token": "x"}).status_code for _ in range(5)]
    assert statuses == [410, 410, 410, 429, 429]
    assert AuditEvent.objects.filter(action="signin.failed").count() == 3
