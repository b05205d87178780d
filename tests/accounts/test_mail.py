"""Mail: the terminal of the embedded default, a real SMTP server, and one that refuses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core import mail
from django.test import Client

from accounts import background
from accounts.background import BackgroundQueue
from accounts.mail import SignInMail, TerminalBackend
from accounts.models import AuditEvent, User


def message(email: str = "alice@example.org") -> SignInMail:
    return SignInMail(
        email=email, link="https://x.example/signin/link/t/", minutes=15, asked_from="Firefox on Linux", ip="192.0.2.1"
    )


def test_terminal_shows_the_link_alone_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert TerminalBackend().send_messages([message()]) == 1
    lines = [line.strip() for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines == [
        "Sign-in link for alice@example.org (works once, for 15 minutes):",
        "https://x.example/signin/link/t/",
    ]


def test_terminal_shows_other_mail_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalBackend().send_messages([mail.EmailMessage("Subject", "Text", to=["a@b.org"])])
    assert "Subject (a@b.org)" in capsys.readouterr().err


def test_mail_is_text_and_html_and_asks_for_no_answer() -> None:
    sent = message().message()
    assert [part.get_content_type() for part in sent.walk()][1:] == ["text/plain", "text/html"]
    assert sent["Auto-Submitted"] == "auto-generated"
    assert "Firefox on Linux at 192.0.2.1" in message().body


def test_markup_in_an_address_is_escaped_in_html() -> None:
    assert "<b>" not in str(message('"<b>"@example.org').alternatives[0].content)  # type: ignore[attr-defined]


class SmtpServer(threading.Thread):
    """Just enough SMTP to take one message after the other, or to refuse every recipient."""

    def __init__(self, *, refuse: bool = False) -> None:
        super().__init__(daemon=True)
        self.refuse = refuse
        self.messages: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb", buffering=0) as stream:
                self.talk(stream)

    def talk(self, stream: Any) -> None:
        stream.write(b"220 test\r\n")
        while line := stream.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                stream.write(b"354 go on\r\n")
                lines = []
                while (part := stream.readline()) not in (b".\r\n", b""):
                    lines.append(part.decode())
                self.messages.append("".join(lines))
                stream.write(b"250 taken\r\n")
            elif verb == b"QUIT":
                stream.write(b"221 bye\r\n")
                return
            elif verb == b"RCPT" and self.refuse:
                stream.write(b"550 no such mailbox\r\n")
            else:
                stream.write(b"250 fine\r\n")


@pytest.fixture
def smtp(settings: Any) -> Iterator[SmtpServer]:
    server = SmtpServer()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
    server.start()
    yield server
    server.listener.close()


@pytest.fixture
def queue(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> BackgroundQueue:
    """A queue that works on its own thread, as in a server."""
    queue = BackgroundQueue(retry_seconds=(0, 0))
    monkeypatch.setattr(background, "queue", queue)
    return queue


@pytest.mark.django_db(transaction=True)
def test_mail_leaves_through_smtp_off_the_request(smtp: SmtpServer, queue: BackgroundQueue) -> None:
    User.objects.create(email="alice@example.org")
    assert Client().post("/signin/", {"email": "alice@example.org"}).status_code == 303
    assert queue.wait(10)
    [text] = smtp.messages
    assert "To: alice@example.org" in text
    assert "Subject: Your sign-in link for Strake" in text


@pytest.mark.django_db(transaction=True)
def test_mail_that_cannot_be_sent_is_seen_by_the_operator(
    smtp: SmtpServer, queue: BackgroundQueue, caplog: pytest.LogCaptureFixture
) -> None:
    smtp.refuse = True
    alice = User.objects.create(email="alice@example.org")
    assert Client().post("/signin/", {"email": "alice@example.org"}).status_code == 303
    assert queue.wait(10)
    [event] = AuditEvent.objects.filter(action="signin.mail_failed")
    assert event.account == alice
    assert "sign-in mail failed with SMTPRecipientsRefused; given up" in caplog.text
    assert "alice@example.org" not in caplog.text
