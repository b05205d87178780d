"""Watches the expiry of bearer tokens, and describes endpoints and tokens for notices."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import F
from django.urls import reverse

from accounts.notices.kinds import TOKEN_EXPIRED, TOKEN_EXPIRES_IN_DAY, TOKEN_EXPIRES_IN_WEEK, NoticeKind
from accounts.notices.publishing import Sighting
from accounts.notices.watch import Watcher
from credentials.models import BearerToken, Endpoint

DAY = timedelta(days=1)
# How long before its expiry a token is worth a notice, and how long it must live for that.
_THRESHOLDS: tuple[tuple[NoticeKind, timedelta, timedelta], ...] = (
    (TOKEN_EXPIRES_IN_WEEK, 7 * DAY, 8 * DAY),
    (TOKEN_EXPIRES_IN_DAY, DAY, 2 * DAY),
    (TOKEN_EXPIRED, 0 * DAY, 2 * DAY),
)


def describe_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    """The facts of an endpoint that a notice tells. Nothing of it is secret."""
    page = settings.STRAKE_BASE_URL + reverse("credentials:endpoint", args=[endpoint.subdomain])
    return {"subdomain": endpoint.subdomain, "label": endpoint.label, "page": page}


def describe_token(token: BearerToken) -> dict[str, Any]:
    """The facts of a token that a notice tells: never the token or its digest."""
    return {"id": token.pk, "label": token.label, "preview": token.preview}


def text_of_time(moment: datetime | None) -> str:
    """A moment as it is in the facts of a notice."""
    return moment.isoformat(timespec="seconds") if moment else ""


def _expiring(since: datetime, until: datetime) -> Iterator[Sighting]:
    """The tokens that have come within a threshold of their expiry between two looks, by the index of expiry."""
    for kind, before, lifetime in _THRESHOLDS:
        found = BearerToken.objects.filter(
            revoked_at=None, expires_at__gt=since + before, expires_at__lte=until + before
        ).filter(expires_at__gt=F("created_at") + lifetime)
        for token in found.select_related("endpoint"):
            facts = {
                "endpoint": describe_endpoint(token.endpoint),
                "token": describe_token(token) | {"expires_at": text_of_time(token.expires_at)},
            }
            # With its expiry, since that may be changed.
            yield Sighting(token.endpoint.owner_id, kind, f"{token.pk} {facts['token']['expires_at']}", facts)


WATCHER = Watcher("token-expiry", _expiring)
