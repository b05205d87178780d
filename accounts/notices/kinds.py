"""The kinds of notices that people can choose."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class NoticeKind:
    """A kind of notice. `name` is its type in webhook messages and the API.

    `quiet` is how long the reason must have been absent before the same token or endpoint is worth another notice.
    """

    name: str
    label: str
    help: str
    quiet: timedelta


TOKEN_EXPIRES_IN_WEEK = NoticeKind(
    "token.expires_in_week",
    "Token expires in 7 days",
    "For tokens that live longer than 8 days.",
    timedelta(days=8),
)
TOKEN_EXPIRES_IN_DAY = NoticeKind(
    "token.expires_in_day",
    "Token expires in 1 day",
    "For tokens that live longer than 2 days.",
    timedelta(days=8),
)
TOKEN_EXPIRED = NoticeKind(
    "token.expired",
    "Token expired",
    "For tokens that lived longer than 2 days.",
    timedelta(days=8),
)
TOKEN_REVOKED_IN_USE = NoticeKind(
    "token.revoked_in_use",
    "Revoked token in use",
    "Something still sends a token more than a minute after you revoked it. Again only after 7 days without it.",
    timedelta(days=7),
)
KEY_REFUSED = NoticeKind(
    "key.refused",
    "Provider refuses the key",
    "The provider answered 401 or 403, and no request succeeded within 15 minutes. Again only after 6 hours without "
    "this, or with another key.",
    timedelta(hours=6),
)
ENDPOINT_FAILING = NoticeKind(
    "endpoint.failing",
    "Endpoint is failing",
    "At least 5 requests failed at the provider, and none succeeded within 15 minutes. Again only after 6 hours "
    "without this.",
    timedelta(hours=6),
)

KINDS = {
    kind.name: kind
    for kind in (
        TOKEN_EXPIRES_IN_WEEK,
        TOKEN_EXPIRES_IN_DAY,
        TOKEN_EXPIRED,
        KEY_REFUSED,
        ENDPOINT_FAILING,
        TOKEN_REVOKED_IN_USE,
    )
}
# These are not chosen: a person asks for the one, and needs the other.
TEST = "notice.test"
WEBHOOK_DISABLED = "webhook.disabled"
