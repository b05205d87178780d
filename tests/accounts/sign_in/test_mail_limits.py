"""Limits of sign-in email: a flood is bounded for strangers, and locks nobody out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from django.core import mail
from django.test import Client
from pytest_django import Settings

from accounts import outbox
from accounts.models import OutboxMail, SignInLink, User
from accounts.sign_in import magic_links, throttle
from accounts.sign_in.throttle import Limit
from tests.accounts.signing_in import confirm, token_in
from tests.support import factories
from tests.support.pages import text

pytestmark = pytest.mark.django_db

QUIET = "203.0.113.200"


def ask(email: str, ip: str = QUIET) -> None:
    magic_links.request_link(email=email, browser_id="browser", ip=ip)


def network(number: int) -> str:
    return str(IPv4Address("198.18.0.0") + number)


def recipients() -> list[str]:
    return [message.to[0].partition("@")[0] for message in mail.outbox]


# --- Emails --------------------------------------------------------------------------------------------------------


def test_flood_from_many_networks_locks_nobody_out(
    alice: User, deliver: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The figures are smaller than the real ones by the same factor."""
    factories.make_user("staff@example.org", is_staff=True)
    monkeypatch.setattr(throttle, "MAIL_ALARM", Limit("mail-alarm", 8, 3600))
    monkeypatch.setattr(throttle, "NEW_PER_DOMAIN", Limit("new-domain", 4, 3600))
    monkeypatch.setattr(outbox, "CAPACITY", 12)
    for number in range(24):
        ask(f"stranger{number}@example.org", network(number // 4))
    for email in ("alice@example.org", "new@example.org", "staff@example.org"):
        ask(email)
    assert outbox.waiting() <= 12 + 3
    deliver()
    flooded = [name for name in recipients() if name.startswith("stranger")]
    assert recipients()[:2] == ["staff", "alice"], "people come before strangers"
    assert "new" in recipients()
    assert 8 <= len(flooded) <= 12
    alarms = [record for record in caplog.records if "sign-in emails in this hour" in record.getMessage()]
    assert [record.levelno for record in alarms] == [logging.WARNING]
    assert throttle.used(throttle.MAIL_ALARM, "") == len(mail.outbox)
    assert SignInLink.objects.count() == len(mail.outbox), "links that were not sent must not be stored"


def test_new_addresses_are_limited_by_network(
    alice: User, deliver: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "NEW_PER_SITE", Limit("new-site", 2, 3600))
    for number in range(4):
        ask(f"first{number}@example.org", "2001:db8:1:1::1")
    ask("same-site@example.org", "2001:db8:1:2::1")
    ask("other-site@example.org", "2001:db8:2:1::1")
    ask("alice@example.org", "2001:db8:1:1::1")
    deliver()
    assert sorted(recipients()) == ["alice", "first0", "first1", "other-site"]


def test_quiet_network_keeps_its_share_of_a_domain(
    deliver: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "NEW_PER_DOMAIN", Limit("new-domain", 4, 3600))
    monkeypatch.setattr(throttle, "NEW_SHARE_OF_DOMAIN", Limit("new-share", 1, 3600))
    for number in range(6):
        ask(f"flood{number}@example.org", network(0))
    deliver()
    ask("new@example.org")
    ask("second@example.org")
    ask("other@example.com", network(0))
    deliver()
    assert sorted(recipients()) == ["flood0", "flood1", "flood2", "flood3", "new", "other"]


def test_refused_address_uses_no_share(
    deliver: Callable[[], None], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.STRAKE_SIGNUP = ["open.example"]
    monkeypatch.setattr(throttle, "NEW_PER_SITE", Limit("new-site", 2, 3600))
    for number in range(3):
        ask(f"nobody{number}@elsewhere.example")
    ask("new@open.example")
    deliver()
    assert recipients() == ["new"]
    assert throttle.used(throttle.NEW_PER_DOMAIN, "elsewhere.example") == 0


def test_account_that_redeems_takes_no_email_from_others(
    alice: User,
    client: Client,
    deliver: Callable[[], None],
    mailed_link: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factories.make_user("mallory@example.org")
    monkeypatch.setattr(throttle, "MAIL_ALARM", Limit("mail-alarm", 2, 3600))
    monkeypatch.setattr(throttle, "MAILS_PER_EMAIL", Limit("mail-email", 5, 3600))
    for number in range(7):
        ask("mallory@example.org", network(number))
        assert confirm(Client(), mailed_link()) in {303, 410}
    assert recipients() == ["mallory"] * 5
    ask("alice@example.org")
    deliver()
    assert recipients()[-1] == "alice"


# --- The queue -----------------------------------------------------------------------------------------------------


def claimed() -> list[str]:
    return [row.email.partition("@")[0] for row in iter(outbox._claim, None)]


def test_networks_and_addresses_take_turns(alice: User, bob: User) -> None:
    for number in range(3):
        ask(f"noisy{number}@example.org", network(0))
    ask("quiet@example.org", network(1))
    for _ in range(2):
        ask("alice@example.org", network(0))
    ask("bob@example.org", network(2))
    order = claimed()
    assert order[:3] == ["bob", "alice", "alice"]
    assert order[3:] == ["noisy0", "quiet", "noisy1", "noisy2"]


def test_full_outbox_drops_from_the_busiest_network(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "CAPACITY", 3)
    for number in range(3):
        ask(f"noisy{number}@example.org", network(0))
    ask("quiet@example.org", network(1))
    ask("alice@example.org", network(0))
    ask("other@example.org", network(2))
    assert sorted(claimed()) == ["alice", "noisy0", "other", "quiet"]


def test_waiting_emails_to_one_address_are_bounded(alice: User) -> None:
    for number in range(outbox.MAX_PER_EMAIL + 3):
        ask("alice@example.org", network(number))
    assert OutboxMail.objects.count() == outbox.MAX_PER_EMAIL


# --- Redeeming -----------------------------------------------------------------------------------------------------


def test_failed_attempts_do_not_block_a_valid_link(
    alice: User, client: Client, mailed_link: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody in the same network tries links that do not work."""
    monkeypatch.setattr(throttle, "CONFIRMS_PER_ADDRESS", Limit("confirm-address", 1, 900))
    ask("alice@example.org")
    path = mailed_link()
    statuses = [client.post("/signin/confirm/", {"token": "x"}).status_code for _ in range(3)]
    assert statuses == [410, 429, 429]
    assert confirm(client, path) == 303


def test_attempts_with_valid_links_count_for_their_address(
    alice: User, bob: User, client: Client, mailed_link: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "CONFIRMS_PER_EMAIL", Limit("confirm-email", 1, 900))
    statuses = []
    for email in ("alice@example.org", "alice@example.org", "bob@example.org"):
        ask(email)
        statuses.append(confirm(client, mailed_link()))
    assert statuses == [303, 429, 303]


def test_new_accounts_are_limited_by_network(
    alice: User, client: Client, mailed_link: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "ACCOUNTS_PER_ADDRESS", Limit("account-address", 1, 3600))
    paths = {}
    for name in ("first", "second", "alice"):
        ask(f"{name}@example.org")
        paths[name] = mailed_link()
    assert confirm(client, paths["first"]) == 303
    refused = client.post("/signin/confirm/", {"token": token_in(paths["second"])})
    assert refused.status_code == 429
    assert "Many accounts have been created from your network." in text(refused)
    assert 0 < int(refused.headers["Retry-After"]) <= 3601
    assert not User.objects.filter(email="second@example.org").exists()
    assert confirm(client, paths["alice"]) == 303
    elsewhere = Client(headers={"X-Strake-Client": QUIET})
    assert confirm(elsewhere, paths["second"]) == 303, "the link is still unused"


def test_events_that_do_not_count_are_not_counted() -> None:
    for counts in (True, False, True, False, True):
        throttle.count_if(counts, throttle.NEW_PER_DOMAIN, "example.org")
    assert throttle.used(throttle.NEW_PER_DOMAIN, "example.org") == 3
