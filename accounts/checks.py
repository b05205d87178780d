"""System checks of the accounts app. They run at startup and with `manage.py check`.

accounts.E001   STRAKE_SIGNUP contains a word that is not a policy, a domain or an email address
accounts.E002   the session cookie is not HttpOnly and SameSite=Lax, or under https not Secure and `__Host-`
accounts.E003   the Redis cache uses pickle
accounts.E004   STRAKE_MAIL_FROM is not an email address, with or without a name
"""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parseaddr
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from accounts.addresses import normalise_email
from accounts.errors import InvalidEmail
from accounts.sign_in import mail, policy


@register
def check_signup(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    return [
        Error(f"STRAKE_SIGNUP: {error}", hint="Set it to open, closed, or a comma-separated list.", id="accounts.E001")
        for error in policy.errors()
    ]


@register
def check_sender(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """A mail server would refuse every sign-in email, long after people were told that it is on its way."""
    if mail.delivery() != "email":
        return []
    sender = settings.STRAKE_MAIL_FROM
    if _is_sender(sender):
        return []
    return [
        Error(
            f"STRAKE_MAIL_FROM is {sender}, which is not an email address.",
            hint="Write strake@example.org or Strake <strake@example.org>, without quotes around it: some programs "
            "that read environment files keep them.",
            id="accounts.E004",
        )
    ]


def _is_sender(text: str) -> bool:
    address = parseaddr(text)[1]
    try:
        normalise_email(address)
    except InvalidEmail:
        return False
    return text == address or text.endswith(f"<{address}>")


@register
def check_session_cookie(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    secure = settings.SESSION_COOKIE_SECURE and settings.SESSION_COOKIE_NAME.startswith("__Host-")
    if (
        settings.SESSION_COOKIE_HTTPONLY
        and settings.SESSION_COOKIE_SAMESITE == "Lax"
        and (secure or not settings.HTTPS)
    ):
        return []
    return [
        Error(
            "The session cookie must be HttpOnly and SameSite=Lax, and under https also Secure and named __Host-….",
            hint="Restore the SESSION_COOKIE_* settings of strake/settings.py.",
            id="accounts.E002",
        )
    ]


@register
def check_cache_serializer(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    cache: dict[str, Any] = dict(settings.CACHES["default"])
    serializer = cache.get("OPTIONS", {}).get("SERIALIZER", "")
    if "Redis" not in cache["BACKEND"] or serializer == "django_redis.serializers.json.JSONSerializer":
        return []
    return [
        Error(
            "The Redis cache uses pickle, so anybody who can write to Redis can run code in Strake.",
            hint="Set OPTIONS['SERIALIZER'] to django_redis.serializers.json.JSONSerializer.",
            id="accounts.E003",
        )
    ]
