"""Sending email: to the terminal, to an SMTP server, and to one that refuses recipients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from django.core import mail
from django.test import Client
from pytest_django import Settings

from accounts import outbox
from accounts.actors import Person
from accounts.models import AuditEvent, OutboxMail, SignInLink, User
from accounts.sign_in.mail import SignInMail, TerminalBackend
from accounts.users import delete_account
from tests.accounts.processes import run_python
from tests.accounts.signing_in import LINK
from tests.accounts.smtp import SmtpServer
from tests.support.pages import FROM_LOOPBACK
from tests.support.running import Strake


def message(email: str = "alice@example.org") -> SignInMail:
    return SignInMail(
        email=email, link="https://x.example/signin/link/t/", minutes=15, asked_from="Firefox on Linux", ip="192.0.2.1"
    )


def test_terminal_prints_the_link_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert TerminalBackend().send_messages([message()]) == 1
    lines = [line.strip() for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines == [
        "Sign-in link for alice@example.org (works once, for 15 minutes):",
        "https://x.example/signin/link/t/",
    ]


def test_terminal_prints_other_email_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalBackend().send_messages([mail.EmailMessage("Subject", "Text", to=["a@b.org"])])
    assert "Subject (a@b.org)" in capsys.readouterr().err


def test_email_has_text_html_and_no_auto_reply() -> None:
    sent = message().message()
    assert [part.get_content_type() for part in sent.walk()][1:] == ["text/plain", "text/html"]
    assert sent["Auto-Submitted"] == "auto-generated"
    assert "Firefox on Linux at 192.0.2.1" in message().body


def test_markup_in_an_address_is_escaped() -> None:
    assert "<b>" not in str(message('"<b>"@example.org').alternatives[0].content)  # type: ignore[attr-defined]


@pytest.fixture
def smtp(settings: Settings) -> Iterator[SmtpServer]:
    server = SmtpServer()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
    server.start()
    yield server
    server.listener.close()


def retry_after(patch: pytest.MonkeyPatch, *seconds: int) -> None:
    kind = outbox.registered("sign-in")
    patch.setitem(outbox._kinds, kind.name, replace(kind, retry_seconds=seconds))


@pytest.fixture
def wait_until_sent(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Lets the thread send email, as in a server. Waits until the outbox is empty."""
    sender = outbox.Sender()
    monkeypatch.setattr(outbox, "start", sender.start)

    def wait() -> None:
        end = time.monotonic() + 60
        while outbox.waiting():
            assert time.monotonic() < end, "the email was not sent"
            time.sleep(0.01)

    yield wait
    sender.stop()


def request_link() -> None:
    assert Client(headers=FROM_LOOPBACK).post("/signin/", {"email": "alice@example.org"}).status_code == 303


@pytest.mark.django_db(transaction=True)
def test_email_is_sent_by_a_thread(smtp: SmtpServer, wait_until_sent: Callable[[], None]) -> None:
    User.objects.create(email="alice@example.org")
    request_link()
    wait_until_sent()
    [text] = smtp.messages
    assert "To: alice@example.org" in text
    assert "Subject: Your sign-in link for Strake" in text


@pytest.mark.django_db(transaction=True)
def test_unsent_email_is_logged_and_audited(
    smtp: SmtpServer,
    wait_until_sent: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    smtp.refuse = True
    retry_after(monkeypatch, 0, 0)
    alice = User.objects.create(email="alice@example.org")
    request_link()
    wait_until_sent()
    [event] = AuditEvent.objects.filter(action="signin.mail_failed")
    assert (event.account, event.ip) == (alice, "127.0.0.1")
    assert not SignInLink.objects.exists(), "a link that nobody got must not keep the next one from being sent"
    assert "sign-in email failed with SMTPRecipientsRefused and was given up" in caplog.text
    assert "alice@example.org" not in caplog.text


@pytest.mark.django_db
def test_retry_replaces_the_token(alice: User, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mail server may have delivered an email and lost the connection before it said so."""
    sent: list[mail.EmailMessage] = []

    def lose_connection(message: mail.EmailMessage, **_: object) -> int:
        sent.append(message)
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(mail.EmailMessage, "send", lose_connection)
        retry_after(patch, -1)  # due at once, whatever the clock's precision
        request_link()
        mail_row = outbox._claim()
        assert mail_row is not None
        outbox._attempt(mail_row)
    outbox.run_due()
    links = [LINK.search(text) for text in (str(sent[0].body), smtp.messages[0].replace("=\n", ""))]
    first, second = (link[1] for link in links if link)
    assert first != second
    assert (opens(first), opens(second)) == (False, True)
    assert SignInLink.objects.count() == 1
    assert AuditEvent.objects.filter(action="signin.link_made").count() == 1


def opens(path: str) -> bool:
    browser = Client()
    browser.get(path)
    return browser.get("/signin/confirm/").status_code == 200


@pytest.mark.django_db
def test_used_link_is_not_sent_again(alice: User, smtp: SmtpServer) -> None:
    """The process that sent the email died before it could say so."""
    request_link()
    row = outbox._claim()
    assert row is not None
    assert outbox._kinds["sign-in"].compose(row) is not None
    SignInLink.objects.update(used_at=SignInLink.objects.get().created_at)
    OutboxMail.objects.update(due_at=OutboxMail.objects.get().created_at)
    outbox.run_due()
    assert (smtp.messages, outbox.waiting()) == ([], 0)


@pytest.mark.django_db
def test_deleted_account_gets_no_more_email(alice: User) -> None:
    request_link()
    delete_account(actor=Person(alice), confirmation=alice.email)
    assert outbox.waiting() == 0


@pytest.mark.parametrize("installation", ["sqlite"], indirect=True)
def test_killed_process_loses_no_sign_in_email(installation: Strake) -> None:
    server = SmtpServer()
    server.start()
    email = {"EMAIL_URL": "smtp://127.0.0.1:1"}
    code = """
import os, signal
from accounts import outbox
from accounts.sign_in import magic_links
outbox.LEASE_SECONDS = 2
magic_links.request_link(email="alice@example.org", browser_id="b", user_agent="Firefox/1 Linux")
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = run_python(installation, code, email)
    assert killed.returncode == -9, killed.stderr
    code = """
import time
from accounts import outbox
outbox.start()
while outbox.waiting():
    time.sleep(0.05)
"""
    done = run_python(installation, code, {"EMAIL_URL": f"smtp://127.0.0.1:{server.port}"})
    server.listener.close()
    assert done.returncode == 0, done.stderr
    [text] = server.messages
    assert "To: alice@example.org" in text
    assert "Firefox on Linux" in text
