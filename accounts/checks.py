"""System checks of the accounts app. They run at startup and with `manage.py check`.

accounts.E001   STRAKE_SIGNUP contains a word that is not a policy, a domain or an email address
accounts.E002   the session cookie is not HttpOnly and SameSite=Lax, or under https not Secure and `__Host-`
accounts.E003   the Redis cache uses pickle
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from accounts.sign_in import policy


@register
def check_signup(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    return [
        Error(f"STRAKE_SIGNUP: {error}", hint="Set it to open, closed, or a comma-separated list.", id="accounts.E001")
        for error in policy.errors()
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
