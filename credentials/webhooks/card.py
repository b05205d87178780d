"""The card of notices on the settings page."""

from __future__ import annotations

from django.http import HttpRequest

from accounts.audit import actor_of
from accounts.models import Webhook
from accounts.notices.choices import choices
from accounts.notices.kinds import KINDS
from accounts.settings_cards import Card
from accounts.sign_in.mail import delivery


def _context(request: HttpRequest) -> dict[str, object]:
    user = actor_of(request).user
    wanted = choices(user)
    rows = [(kind, kind.name in wanted.mail, kind.name in wanted.webhook) for kind in KINDS.values()]
    return {"rows": rows, "webhook": Webhook.objects.filter(person=user).first(), "delivery": delivery()}


CARD = Card("credentials/notices_card.html", _context)
