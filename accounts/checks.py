"""System checks of the accounts app. They run before the server starts and with `manage.py check`.

accounts.E001   STRAKE_SIGNUP holds a word that is neither a policy nor a domain nor an address
accounts.E002   the session cookie does not fit the origin: not Secure, HttpOnly, `__Host-` under https
accounts.E003   the Redis cache would unpickle what it reads
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from accounts import signup


@register
def check_signup(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    return [
        Error(
            f"STRAKE_SIGNUP: {mistake}", hint="Set it to open, closed, or a comma-separated list.", id="accounts.E001"
        )
        for mistake in signup.mistakes()
    ]


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
def check_cache_serialiser(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    cache: dict[str, Any] = dict(settings.CACHES["default"])
    serialiser = cache.get("OPTIONS", {}).get("SERIALIZER", "")
    if "Redis" not in cache["BACKEND"] or serialiser == "django_redis.serializers.json.JSONSerializer":
        return []
    return [
        Error(
            "The Redis cache uses pickle, which lets whoever can write to Redis run code here.",
            hint="Set OPTIONS['SERIALIZER'] to django_redis.serializers.json.JSONSerializer.",
            id="accounts.E003",
        )
    ]
