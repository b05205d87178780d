"""How Django's session layer finds the person of a session."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.backends import BaseBackend
from django.http import HttpRequest

from accounts.models import User


class LinkBackend(BaseBackend):
    """Nobody signs in through this backend: `accounts.links.redeem_link` does, and names it."""

    def authenticate(self, request: HttpRequest | None, **credentials: Any) -> None:
        return None

    def get_user(self, user_id: UUID) -> User | None:
        return User.objects.filter(pk=user_id).first()
