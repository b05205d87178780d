"""The email that contains a sign-in link. Strake sends no other email."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from django.conf import settings
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail.backends.base import BaseEmailBackend
from django.template.loader import render_to_string

from accounts.plain_text import escape_unsafe


class SignInMail(EmailMultiAlternatives):
    """A sign-in link for one address, in text and HTML.

    `minutes` is the link's lifetime. `asked_from` and `ip` describe the browser that requested it.
    """

    def __init__(self, *, email: str, link: str, minutes: int, asked_from: str, ip: str | None) -> None:
        context = {"email": email, "link": link, "minutes": minutes, "asked_from": asked_from, "ip": ip}
        super().__init__(
            subject=render_to_string("emails/sign-in-subject.txt", context).strip(),
            body=render_to_string("emails/sign-in.txt", context),
            to=[email],
            # Suppress automatic replies (RFC 3834 §5, and Microsoft Exchange's own header).
            headers={"Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All"},
        )
        self.attach_alternative(render_to_string("emails/sign-in.html", context), "text/html")
        self.link = link
        self.minutes = minutes


class TerminalBackend(BaseEmailBackend):
    """Writes sign-in links to standard error. Used when no mail server is configured."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        for message in email_messages:
            sys.stderr.write(_terminal_text(message))
        sys.stderr.flush()
        return len(email_messages)


def delivery() -> str:
    """How a sign-in link that somebody asks for reaches them: "email", "terminal", or "none": an operator gives it."""
    if settings.EMAIL_BACKEND.endswith(".TerminalBackend"):
        return "terminal"
    return "none" if settings.EMAIL_BACKEND.endswith(".dummy.EmailBackend") else "email"


def _terminal_text(message: EmailMessage) -> str:
    to = escape_unsafe(", ".join(message.to))
    if isinstance(message, SignInMail):
        return f"\n  Sign-in link for {to} (works once, for {message.minutes} minutes):\n\n    {message.link}\n\n"
    body = "\n".join(map(escape_unsafe, str(message.body).splitlines()))
    return f"\n  {escape_unsafe(str(message.subject))} ({to})\n\n{body}\n\n"
