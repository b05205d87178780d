"""The authentication backend that sessions name. Moving this module would end every session."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.backends import BaseBackend
from django.http import HttpRequest

from accounts.models import User


class LinkBackend(BaseBackend):
    """Loads the user of a session. It authenticates nobody: only `magic_links.redeem_link` does."""

    def authenticate(self, request: HttpRequest | None, **credentials: Any) -> None:
        return None

    def get_user(self, user_id: UUID) -> User | None:
        return User.objects.filter(pk=user_id).first()
