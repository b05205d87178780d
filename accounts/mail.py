"""The one mail Strake sends: a sign-in link."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail.backends.base import BaseEmailBackend
from django.template.loader import render_to_string


class SignInMail(EmailMultiAlternatives):
    """A link for one address, in text and HTML."""

    def __init__(self, *, email: str, link: str, minutes: int, asked_from: str, ip: str | None) -> None:
        context = {"email": email, "link": link, "minutes": minutes, "asked_from": asked_from, "ip": ip}
        super().__init__(
            subject=render_to_string("emails/sign-in-subject.txt", context).strip(),
            body=render_to_string("emails/sign-in.txt", context),
            to=[email],
            # Keeps holiday notices and mailing lists from answering.
            headers={"Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All"},
        )
        self.attach_alternative(render_to_string("emails/sign-in.html", context), "text/html")
        self.link = link
        self.minutes = minutes


class TerminalBackend(BaseEmailBackend):
    """Mail of the embedded default: the link, on the terminal Strake runs in."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        for message in email_messages:
            sys.stderr.write(_on_terminal(message))
        sys.stderr.flush()
        return len(email_messages)


def _on_terminal(message: EmailMessage) -> str:
    to = ", ".join(message.to)
    if isinstance(message, SignInMail):
        return f"\n  Sign-in link for {to} (works once, for {message.minutes} minutes):\n\n    {message.link}\n\n"
    return f"\n  {message.subject} ({to})\n\n{message.body}\n\n"
