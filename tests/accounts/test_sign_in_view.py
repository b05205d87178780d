"""Asking for a link: /signin/."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import time_machine
from django.core import mail
from django.test import Client
from django.utils import timezone

from accounts import limits, links
from accounts.background import BackgroundQueue
from accounts.models import AuditEvent, SignInLink, User
from tests.accounts.conftest import LINK

pytestmark = pytest.mark.django_db


def test_known_address_gets_one_mail_in_text_and_html(
    alice: User, ask: Callable[..., int], deliver: Callable[[], None]
) -> None:
    assert ask() == 303
    deliver()
    [message] = mail.outbox
    assert message.to == ["alice@example.org"]
    assert message.subject == "Your sign-in link for Strake"
    link = LINK.search(str(message.body))
    assert link
    html = message.alternatives[0]  # type: ignore[attr-defined]
    assert html.mimetype == "text/html"
    assert link[0] in html.content


def test_nothing_is_looked_up_or_stored_before_the_answer(
    alice: User, ask: Callable[..., int], deliver: Callable[[], None], django_assert_num_queries: Callable[..., object]
) -> None:
    with django_assert_num_queries(0):  # type: ignore[attr-defined]
        assert ask() == 303
    deliver()


def test_token_is_not_stored(alice: User, ask: Callable[..., int], mailed_link: Callable[[], str]) -> None:
    ask()
    path = mailed_link()
    token = path.split("/")[3]
    [row] = SignInLink.objects.values()
    assert len(row["token_digest"]) == 32
    for value in [*row.values(), *AuditEvent.objects.values_list("subject_label", "subject_id", "action")]:
        assert token not in str(value)


def test_known_unknown_limited_and_refused_addresses_get_the_same_answer(
    client: Client, alice: User, deliver: Callable[[], None], settings: object
) -> None:
    settings.STRAKE_SIGNUP = ["closed"]  # type: ignore[attr-defined]
    User.objects.create(email="anton@example.org")
    links.operator_link(email="anton@example.org")
    for _ in range(limits.LINKS_PER_EMAIL.count + 1):
        limits.count(limits.LINKS_PER_EMAIL, "anton@example.org")
    answers = []
    for email in ["alice@example.org", "anton@example.org", "zelda@example.org"]:
        browser = Client()
        response = browser.post("/signin/", {"email": email})
        page = browser.get(response.headers["Location"])
        cookies = {name: len(morsel.value) - len(email) for name, morsel in response.cookies.items()}
        cookies.pop("strake-email")
        answers.append(
            (response.status_code, dict(response.headers), sorted(cookies.items()), len(page.content) - len(email))
        )
    assert answers[0] == answers[1] == answers[2]
    deliver()
    assert [message.to for message in mail.outbox] == [["alice@example.org"]]


def test_spellings_of_one_address_are_one_address(
    alice: User, ask: Callable[..., int], deliver: Callable[[], None]
) -> None:
    for spelling in ["Alice@Example.ORG", "  alice@example.org ", "\uff41lice@example.org"]:
        assert ask(spelling) == 303
    deliver()
    assert {tuple(message.to) for message in mail.outbox} == {("alice@example.org",)}
    assert User.objects.count() == 1


@pytest.mark.parametrize(
    "text", ["", "alice", "alice@", "a@b@c.org", "a@b.org\nBcc: c@d.org", "älice@example.org", "a" * 250 + "@b.org"]
)
def test_what_is_no_address_is_said_kindly(client: Client, text: str) -> None:
    response = client.post("/signin/", {"email": text, "next": "/settings/"})
    assert response.status_code == 400
    assert "e-mail address" in response.content.decode()
    assert 'value="/settings/"' in response.content.decode()


@pytest.mark.parametrize(
    ("header", "value"),
    [("HTTP_HOST", "127.0.0.1"), ("HTTP_X_FORWARDED_HOST", "evil.example"), ("HTTP_FORWARDED", "host=evil.example")],
)
def test_link_is_built_from_configuration_alone(
    alice: User, client: Client, mailed_link: Callable[[], str], header: str, value: str
) -> None:
    client.post("/signin/", {"email": "alice@example.org"}, **{header: value})
    assert mailed_link().startswith("/signin/link/")  # the pattern demands http://localhost:8000 before it


def test_foreign_host_header_is_refused(alice: User, client: Client) -> None:
    response = client.post("/signin/", {"email": "alice@example.org"}, HTTP_HOST="evil.example")
    assert response.status_code == 400


def test_three_links_live_at_most_and_a_flood_leaves_them_valid(
    alice: User, client: Client, deliver: Callable[[], None]
) -> None:
    for _ in range(12):
        client.post("/signin/", {"email": "alice@example.org"})
        deliver()
    assert len(mail.outbox) == links.LIVE_LINKS == SignInLink.objects.count()
    first = LINK.search(str(mail.outbox[0].body))
    assert first
    browser = Client()
    browser.get(first[1])
    assert browser.post("/signin/confirm/", {"token": first[2]}).status_code == 303


def test_flood_of_requests_locks_nobody_out(
    alice: User, client: Client, mailed_link: Callable[[], str], deliver: Callable[[], None]
) -> None:
    """However the flood is timed against the windows of the limit, a mail with a link that works is there or comes."""
    start = timezone.now()
    for minutes in range(0, 90, 3):
        with time_machine.travel(start + timedelta(minutes=minutes, seconds=1), tick=False):
            for _ in range(limits.LINKS_PER_EMAIL.count + 1):
                links.request_link(email="alice@example.org", nonce="attacker", ip="198.51.100.1")
            deliver()
            client.post("/signin/", {"email": "alice@example.org"})
            newest = mailed_link()
            client.get(newest)
            assert client.get("/signin/confirm/").status_code == 200, minutes
    assert len(mail.outbox) <= 6 * 12, "the limit holds for all that"


def test_link_used_during_a_flood_makes_room_for_the_next(
    alice: User, client: Client, mailed_link: Callable[[], str]
) -> None:
    for _ in range(5):
        for _ in range(limits.LINKS_PER_EMAIL.count + 1):
            links.request_link(email="alice@example.org", nonce="attacker", ip="198.51.100.1")
        browser = Client()
        browser.get(path := mailed_link())
        assert browser.post("/signin/confirm/", {"token": path.split("/")[3]}).status_code == 303


def test_beyond_the_limit_of_an_address_one_link_lives_at_a_time(
    alice: User, ask: Callable[..., int], mailed_link: Callable[[], str]
) -> None:
    for _ in range(limits.LINKS_PER_EMAIL.count):
        ask()
        browser = Client()
        browser.get(path := mailed_link())
        assert browser.post("/signin/confirm/", {"token": path.split("/")[3]}).status_code == 303
    before = len(mail.outbox)
    for _ in range(3):
        ask()
        mailed_link()
    assert len(mail.outbox) == before + 1


def test_sign_up_follows_the_policy(ask: Callable[..., int], deliver: Callable[[], None], settings: object) -> None:
    settings.STRAKE_SIGNUP = ["example.org", "ann@example.com"]  # type: ignore[attr-defined]
    for email in ["new@example.org", "ann@example.com", "bea@example.com", "x@sub.example.org", "y@badexample.org"]:
        ask(email)
    deliver()
    assert sorted(message.to[0] for message in mail.outbox) == ["ann@example.com", "new@example.org"]
    assert not User.objects.exists(), "asking makes no account"


def test_mail_budget_of_the_whole_installation_holds(
    ask: Callable[..., int], deliver: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: object
) -> None:
    monkeypatch.setattr(limits, "MAIL_BUDGET", limits.Limit("mail-budget", 2, 3600))
    for number in range(4):
        assert ask(f"person{number}@example.org") == 303
    deliver()
    assert len(mail.outbox) == 2
    assert "mail budget" in caplog.text  # type: ignore[attr-defined]
    assert SignInLink.objects.count() == 2, "a link that nobody gets does not count as live"
    User.objects.create(email="known@example.org")
    ask("known@example.org")
    deliver()
    assert mail.outbox[-1].to == ["known@example.org"], "strangers' addresses use up nothing of people with an account"


def test_mail_for_which_the_queue_has_no_room_is_seen_by_the_operator(
    alice: User, ask: Callable[..., int], held_queue: BackgroundQueue
) -> None:
    ask()
    held_queue.capacity = 0
    held_queue.run_due()
    assert not mail.outbox
    assert AuditEvent.objects.get(action="signin.mail_failed").account == alice


def test_one_address_asking_too_often_is_told_when_to_try_again(client: Client, deliver: Callable[[], None]) -> None:
    statuses = [
        client.post("/signin/", {"email": f"p{number}@example.org"}).status_code
        for number in range(limits.LINKS_PER_ADDRESS.count + 1)
    ]
    assert statuses[:-1] == [303] * limits.LINKS_PER_ADDRESS.count
    response = client.post("/signin/", {"email": "alice@example.org"})
    assert response.status_code == 429
    assert 0 < int(response.headers["Retry-After"]) <= 901
    assert "Try again in" in response.content.decode()
    deliver()


def test_spoofed_forwarded_for_neither_evades_nor_burdens_others(
    client: Client, deliver: Callable[[], None], monkeypatch: pytest.MonkeyPatch, settings: object
) -> None:
    monkeypatch.setattr(limits, "LINKS_PER_ADDRESS", limits.Limit("signin-address", 2, 900))

    def ask_from(forwarded: str) -> int:
        return client.post("/signin/", {"email": "a@example.org"}, HTTP_X_FORWARDED_FOR=forwarded).status_code

    assert [ask_from(f"198.51.100.{n}") for n in range(4)] == [303, 303, 429, 429]
    settings.STRAKE_TRUSTED_PROXIES = 1  # type: ignore[attr-defined]
    assert [ask_from(f"198.51.100.{n}, 203.0.113.9") for n in range(4)] == [303, 303, 429, 429]
    assert ask_from("203.0.113.9, 203.0.113.10") == 303
    deliver()


def test_signed_in_person_is_sent_on(client: Client, alice: User) -> None:
    client.force_login(alice)
    response = client.get("/signin/?next=/settings/")
    assert (response.status_code, response.headers["Location"]) == (303, "/settings/")


def test_asking_needs_a_csrf_token(alice: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    assert strict.post("/signin/", {"email": "alice@example.org"}).status_code == 403
