"""Requesting a link: /signin/."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
import time_machine
from django.core import mail
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts import outbox, tokens
from accounts.models import AuditEvent, OutboxMail, SignInLink, User
from accounts.sign_in import magic_links, throttle
from tests.accounts.signing_in import LINK, cookie_name, token_in

pytestmark = pytest.mark.django_db


def test_known_address_gets_one_email(
    alice: User, request_link: Callable[..., int], deliver: Callable[[], None]
) -> None:
    assert request_link() == 303
    deliver()
    [message] = mail.outbox
    assert message.to == ["alice@example.org"]
    assert message.subject == "Your sign-in link for Strake"
    link = LINK.search(str(message.body))
    assert link
    assert isinstance(message, mail.EmailMultiAlternatives)
    [(html, mimetype)] = message.alternatives
    assert mimetype == "text/html"
    assert link[0] in str(html)


def statements(work: Callable[[], object]) -> list[str]:
    """Return the statements that `work` executes, without their values."""
    executed: list[str] = []

    def note(execute: Callable[..., object], statement: str, *arguments: object) -> object:
        executed.append(re.sub(r'"s\d+_x\d+"', "savepoint", statement))
        return execute(statement, *arguments)

    with connection.execute_wrapper(note):
        work()
    return executed


@pytest.fixture
def kinds_of_address(alice: User, settings: Settings) -> dict[str, str]:
    """An address of every kind that nobody must be able to tell apart. For `limited`, no link is due."""
    settings.STRAKE_SIGNUP = ["open.example"]
    User.objects.create(email="limited@example.org")
    magic_links.operator_link(email="limited@example.org")
    for _ in range(throttle.LINKS_PER_EMAIL.count + 1):
        throttle.count(throttle.LINKS_PER_EMAIL, "limited@example.org")
    # The counters of these exist, as they do in a server that has been running.
    throttle.count(throttle.LINKS_PER_EMAIL, "alice@example.org")
    addresses = {
        "known": "alice@example.org",
        "unknown": "zelda@example.org",
        "may sign up": "new@open.example",
        "limited": "limited@example.org",
    }
    for email in addresses.values():
        domain = email.partition("@")[2]
        for counts in (True, False):
            throttle.count_if(counts, throttle.MAILS_PER_EMAIL, email)
            throttle.count_if(counts, throttle.NEW_PER_SITE, "127.0.0.1")
            throttle.count_if(counts, throttle.NEW_SHARE_OF_DOMAIN, f"127.0.0.1 {domain}")
            throttle.count_if(counts, throttle.NEW_PER_DOMAIN, domain)
            throttle.count_if(counts, throttle.MAIL_ALARM, "")
    return addresses


def test_every_address_costs_the_same_queries(
    client: Client, kinds_of_address: dict[str, str], deliver: Callable[[], None]
) -> None:
    client.post("/signin/", {"email": "first@example.org"})  # so that the counter of this client exists
    deliver()
    executed = {
        kind: tuple(statements(lambda email=email: client.post("/signin/", {"email": email})))  # type: ignore[misc]
        for kind, email in kinds_of_address.items()
    }
    assert len(set(executed.values())) == 1, executed
    assert sum("INSERT" in statement for statement in executed["known"]) == 1
    deliver()


def test_sender_does_the_same_work_for_every_address(
    kinds_of_address: dict[str, str], request_link: Callable[..., int]
) -> None:
    """Its work delays other requests. Only the email itself, and the savepoint of its link, differ."""
    executed = {}
    for kind, email in kinds_of_address.items():
        throttle.count(throttle.LINKS_PER_EMAIL, email)
        request_link(email)
        sent = len(mail.outbox)
        executed[kind] = [text for text in statements(outbox.run_due) if not text.startswith("ROLLBACK TO")]
        assert len(mail.outbox) - sent == (kind in {"known", "may sign up"}), kind
    for kind, texts in executed.items():
        assert texts == executed["known"], kind
    written = re.findall(r'^INSERT INTO "(\w+)"', "\n".join(executed["known"]), re.MULTILINE)
    assert written == ["accounts_signinlink", "accounts_auditevent", "accounts_auditlink"]


def test_token_is_not_stored(
    alice: User, request_link: Callable[..., int], mailed_link: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_while_sending: list[str] = []

    def send(message: mail.EmailMessage, **options: object) -> int:
        rows_while_sending.append(str(list(OutboxMail.objects.values())))
        return original(message, **options)  # type: ignore[arg-type]

    original = mail.EmailMessage.send
    monkeypatch.setattr(mail.EmailMessage, "send", send)
    request_link()
    path = mailed_link()
    token = path.split("/")[3]
    [waiting] = rows_while_sending
    assert "alice@example.org" in waiting
    assert token not in waiting
    assert tokens.digest(token).hex() not in waiting
    [row] = SignInLink.objects.values()
    assert len(row["token_digest"]) == 32
    for value in [*row.values(), *AuditEvent.objects.values_list("subject_label", "subject_id", "action")]:
        assert token not in str(value)


def test_every_address_gets_the_same_response(
    client: Client, alice: User, deliver: Callable[[], None], settings: Settings
) -> None:
    settings.STRAKE_SIGNUP = ["closed"]
    User.objects.create(email="anton@example.org")
    magic_links.operator_link(email="anton@example.org")
    for _ in range(throttle.LINKS_PER_EMAIL.count + 1):
        throttle.count(throttle.LINKS_PER_EMAIL, "anton@example.org")
    responses = []
    for email in ["alice@example.org", "anton@example.org", "zelda@example.org"]:
        browser = Client()
        response = browser.post("/signin/", {"email": email})
        page = browser.get(response.headers["Location"])
        cookies = {name: len(morsel.value) - len(email) for name, morsel in response.cookies.items()}
        cookies.pop(cookie_name("email"))
        responses.append(
            (response.status_code, dict(response.headers), sorted(cookies.items()), len(page.content) - len(email))
        )
    assert responses[0] == responses[1] == responses[2]
    deliver()
    assert [message.to for message in mail.outbox] == [["alice@example.org"]]


def test_spellings_of_an_address_are_one_user(
    alice: User, request_link: Callable[..., int], deliver: Callable[[], None]
) -> None:
    for spelling in ["Alice@Example.ORG", "  alice@example.org ", "\uff41lice@example.org"]:
        assert request_link(spelling) == 303
    deliver()
    assert {tuple(message.to) for message in mail.outbox} == {("alice@example.org",)}
    assert User.objects.count() == 1


@pytest.mark.parametrize(
    "text", ["", "alice", "alice@", "a@b@c.org", "a@b.org\nBcc: c@d.org", "älice@example.org", "a" * 250 + "@b.org"]
)
def test_invalid_email_is_explained(client: Client, text: str) -> None:
    response = client.post("/signin/", {"email": text, "next": "/settings/"})
    assert response.status_code == 400
    [message] = response.context["form"].errors["email"]
    assert "email address" in message
    assert message in response.content.decode()
    assert 'value="/settings/"' in response.content.decode()


@pytest.mark.parametrize(
    ("header", "value"),
    [("Host", "127.0.0.1"), ("X-Forwarded-Host", "evil.example"), ("Forwarded", "host=evil.example")],
)
def test_link_ignores_host_headers(
    alice: User, client: Client, mailed_link: Callable[[], str], header: str, value: str
) -> None:
    client.post("/signin/", {"email": "alice@example.org"}, headers={header: value})
    assert mailed_link().startswith("/signin/link/")  # The pattern requires the configured origin.


def test_unknown_host_is_rejected(alice: User, client: Client) -> None:
    response = client.post("/signin/", {"email": "alice@example.org"}, HTTP_HOST="evil.example")
    assert response.status_code == 400


def test_flood_leaves_three_live_links_valid(alice: User, client: Client, deliver: Callable[[], None]) -> None:
    for _ in range(12):
        client.post("/signin/", {"email": "alice@example.org"})
        deliver()
    assert len(mail.outbox) == magic_links.MAX_LIVE_LINKS == SignInLink.objects.count()
    first = LINK.search(str(mail.outbox[0].body))
    assert first
    browser = Client()
    browser.get(first[1])
    assert browser.post("/signin/confirm/", {"token": first[2]}).status_code == 303


def test_flood_locks_nobody_out(
    alice: User, client: Client, mailed_link: Callable[[], str], deliver: Callable[[], None]
) -> None:
    """At any point of a rate limit window, the mailbox has a valid link or the next request sends one."""
    start = timezone.now()
    for minutes in range(0, 90, 3):
        with time_machine.travel(start + timedelta(minutes=minutes, seconds=1), tick=False):
            for _ in range(throttle.LINKS_PER_EMAIL.count + 1):
                magic_links.request_link(email="alice@example.org", browser_id="attacker", ip="198.51.100.1")
            deliver()
            client.post("/signin/", {"email": "alice@example.org"})
            newest = mailed_link()
            client.get(newest)
            assert client.get("/signin/confirm/").status_code == 200, minutes
    assert len(mail.outbox) <= 6 * 12, "the limit must hold too"


def test_redeeming_during_a_flood_allows_another(alice: User, client: Client, mailed_link: Callable[[], str]) -> None:
    for _ in range(5):
        for _ in range(throttle.LINKS_PER_EMAIL.count + 1):
            magic_links.request_link(email="alice@example.org", browser_id="attacker", ip="198.51.100.1")
        browser = Client()
        browser.get(path := mailed_link())
        assert browser.post("/signin/confirm/", {"token": token_in(path)}).status_code == 303


def test_over_the_limit_one_live_link_at_a_time(
    alice: User, request_link: Callable[..., int], mailed_link: Callable[[], str]
) -> None:
    for _ in range(throttle.LINKS_PER_EMAIL.count):
        request_link()
        browser = Client()
        browser.get(path := mailed_link())
        assert browser.post("/signin/confirm/", {"token": token_in(path)}).status_code == 303
    before = len(mail.outbox)
    for _ in range(3):
        request_link()
        mailed_link()
    assert len(mail.outbox) == before + 1


def test_sign_up_follows_the_policy(
    request_link: Callable[..., int], deliver: Callable[[], None], settings: Settings
) -> None:
    settings.STRAKE_SIGNUP = ["example.org", "ann@example.com"]
    for email in ["new@example.org", "ann@example.com", "bea@example.com", "x@sub.example.org", "y@badexample.org"]:
        request_link(email)
    deliver()
    assert sorted(message.to[0] for message in mail.outbox) == ["ann@example.com", "new@example.org"]
    assert not User.objects.exists(), "a request must not create a user"


def test_full_outbox_drops_the_request(
    request_link: Callable[..., int],
    deliver: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(outbox, "CAPACITY", 1)
    assert [request_link("new@example.org"), request_link("newer@example.org")] == [303, 303]
    assert OutboxMail.objects.count() == 1
    assert "the outbox is full, dropped an email to a stranger" in caplog.text
    deliver()
    assert len(mail.outbox) == 1


def test_too_many_requests_get_retry_after(client: Client, deliver: Callable[[], None]) -> None:
    statuses = [
        client.post("/signin/", {"email": f"p{number}@example.org"}).status_code
        for number in range(throttle.LINKS_PER_ADDRESS.count + 1)
    ]
    assert statuses[:-1] == [303] * throttle.LINKS_PER_ADDRESS.count
    response = client.post("/signin/", {"email": "alice@example.org"})
    assert response.status_code == 429
    assert 0 < int(response.headers["Retry-After"]) <= 901
    assert "Try again in" in response.content.decode()
    deliver()


def test_spoofed_forwarded_for_is_not_counted(
    client: Client, deliver: Callable[[], None], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(throttle, "LINKS_PER_ADDRESS", throttle.Limit("signin-address", 2, 900))
    settings.STRAKE_TRUSTED_PROXIES = 1

    def request_from(address: str, number: int) -> int:
        spoofed = {"X-Forwarded-For": f"198.51.100.{number}", "X-Real-IP": f"198.51.100.{number}"}
        headers = {"X-Strake-Client": address, **spoofed}
        return client.post(
            "/signin/", {"email": "a@example.org"}, headers=headers, REMOTE_ADDR=f"198.51.100.{number}"
        ).status_code

    assert [request_from("203.0.113.9", number) for number in range(4)] == [303, 303, 429, 429]
    assert request_from("203.0.113.10", 5) == 303
    assert [request_from("not an address", number) for number in range(4)] == [303, 303, 429, 429]
    deliver()


def test_signed_in_person_is_redirected(client: Client, alice: User) -> None:
    client.force_login(alice)
    response = client.get("/signin/?next=/settings/")
    assert (response.status_code, response.headers["Location"]) == (303, "/settings/")


def test_request_needs_a_csrf_token(alice: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    assert strict.post("/signin/", {"email": "alice@example.org"}).status_code == 403


# --- Without a mail server -------------------------------------------------------------------------------------------


def test_page_without_mail_names_the_operator(client: Client, alice: User, settings: Settings) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
    for response in (client.get("/signin/"), client.post("/signin/", {"email": "alice@example.org"})):
        assert "doesn't send email" in response.text
        assert "signin_link" in response.text
        assert "<button" not in response.text.partition("<footer")[0]
        assert "alice@example.org" not in response.text
    assert not SignInLink.objects.exists()
    client.force_login(alice)
    for response in (client.get("/signin/again/"), client.post("/signin/again/")):
        if response.status_code == 200:
            assert "manage.py signin_link alice@example.org" in response.text
            assert "Email me" not in response.text


@pytest.mark.parametrize("is_loopback", [True, False])
def test_page_on_loopback_says_whose_account_is_there(
    client: Client, alice: User, bob: User, settings: Settings, is_loopback: bool
) -> None:
    settings.STRAKE_LOOPBACK = is_loopback
    settings.EMAIL_BACKEND = "accounts.sign_in.mail.TerminalBackend"
    page = client.get("/signin/").text
    assert ("Its account is <strong>alice@example.org</strong>" in page) == is_loopback
    assert ('value="alice@example.org"' in page) == is_loopback
    assert "bob@example.org" not in page
    assert "Print a link on the terminal" in page
