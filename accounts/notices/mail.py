"""The email of a notice, in text and HTML, with a link that ends its kind (RFC 8058)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string
from django.urls import reverse

from accounts.models import OutboxMail, User
from accounts.notices.choices import choices, unsubscribe_url
from accounts.notices.kinds import KINDS
from accounts.outbox import Kind

MAX_ITEMS = 20  # of one email. The pages show all


def text_of(kind: str, items: list[dict[str, Any]]) -> tuple[str, str]:
    """The subject and the text of a notice about these items, in plain text."""
    context = {
        "items": [_read(facts) for facts in items[:MAX_ITEMS]],
        "count": len(items),
        "more": max(0, len(items) - MAX_ITEMS),
        "settings": settings.STRAKE_BASE_URL + reverse("accounts:settings"),
    }
    subject, _, body = render_to_string(f"emails/notices/{kind}.txt", context).strip().partition("\n")
    return subject, body.strip()


def _read(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts, with dates in place of their text."""
    return {
        name: _read(value)
        if isinstance(value, dict)
        else datetime.fromisoformat(value)
        if name.endswith("_at") and value
        else value
        for name, value in facts.items()
    }


def _compose(mail: OutboxMail) -> EmailMultiAlternatives | None:
    """The email, or None if the person is gone or does not want this kind any more."""
    user = User.objects.filter(email=mail.email).first()
    kind = mail.details["notice"]
    if user is None or (kind in KINDS and kind not in choices(user).mail):
        return None
    subject, body = text_of(kind, mail.details["items"])
    # Suppress automatic replies (RFC 3834 §5, and Microsoft Exchange's own header).
    headers = {"Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All"}
    context = {
        "subject": subject,
        "body": body,
        "label": KINDS[kind].label if kind in KINDS else "",
        "settings": settings.STRAKE_BASE_URL + reverse("accounts:settings"),
    }
    if kind in KINDS:
        context["unsubscribe"] = unsubscribe_url(user.pk, kind)
        headers |= {
            "List-Unsubscribe": f"<{context['unsubscribe']}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        }
    message = EmailMultiAlternatives(
        subject, render_to_string("emails/notice.txt", context), to=[mail.email], headers=headers
    )
    message.attach_alternative(render_to_string("emails/notice.html", context), "text/html")
    return message


def _give_up(mail: OutboxMail) -> None:
    """The outbox has logged it, and the pages show what the notice was about."""


NOTICE = Kind(
    "notice",
    _compose,
    _give_up,
    retry_seconds=(10, 60, 300, 1800, 7200, 21600),
    max_age=timedelta(days=1),
    max_waiting=50,
    urgent=False,
)
