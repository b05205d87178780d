"""Sessions in the database, used when no Redis is configured."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.contrib.sessions.base_session import AbstractBaseSession
from django.contrib.sessions.models import Session
from django.utils import timezone

from accounts.sessions.store import session_digest


class SessionStore(DatabaseStore):
    """Django's database sessions, stored under a digest of the key."""

    # The async methods of DatabaseStore bypass the overrides below. Those of SessionBase call them in a thread.
    aexists = SessionBase.aexists
    acreate = SessionBase.acreate
    asave = SessionBase.asave
    adelete = SessionBase.adelete
    aload = SessionBase.aload

    def load(self) -> dict[str, Any]:
        row = (
            self.session_key
            and Session.objects.filter(
                session_key=session_digest(self.session_key), expire_date__gt=timezone.now()
            ).first()
        )
        if row:
            return self.decode(row.session_data)
        self._session_key = None
        return {}

    def exists(self, session_key: str) -> bool:
        return Session.objects.filter(session_key=session_digest(session_key)).exists()

    def create_model_instance(self, data: dict[str, Any]) -> AbstractBaseSession:
        row = super().create_model_instance(data)
        row.session_key = session_digest(row.session_key)
        return row

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            self.delete_digest(session_digest(key))

    @classmethod
    def delete_digest(cls, digest: str) -> None:
        """Delete the session with this `session_digest`."""
        Session.objects.filter(session_key=digest).delete()
