"""Sessions in Redis. Unlike Django's cache sessions, an outage raises instead of signing everybody out."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.core.cache import cache

from accounts.stores import answering, session_digest

_PREFIX = "session:"


class SessionStore(SessionBase):
    """One session, kept under a digest of its key until its absolute end. Raises `StoreUnavailable`."""

    def load(self) -> dict[str, Any]:
        if self.session_key is None:
            return {}
        with answering():
            try:
                data = cache.get(_entry(self.session_key))
            except ValueError:
                data = None  # not JSON, so nothing this class ever wrote
        if isinstance(data, dict):
            return data
        self._session_key = None
        return {}

    def exists(self, session_key: str) -> bool:
        with answering():
            return bool(session_key) and cache.has_key(_entry(session_key))

    def create(self) -> None:
        # 32 random characters do not collide: a second try is for the record, endless ones would hide an outage.
        for _ in range(3):
            self._session_key = self._get_new_session_key()  # type: ignore[attr-defined]
            try:
                self.save(must_create=True)
            except CreateError:
                continue
            self.modified = True
            return
        raise CreateError

    def save(self, must_create: bool = False) -> None:
        if self.session_key is None:
            return self.create()
        data = self._get_session(no_load=must_create)  # type: ignore[attr-defined]
        # `xx` writes only over an entry that is there, in one step: a request that ends after its session was
        # signed out elsewhere cannot bring it back.
        condition = {"nx": True} if must_create else {"xx": True}
        with answering():
            written = cache.set(  # type: ignore[func-returns-value]
                _entry(self.session_key), data, self.get_expiry_age(), **condition
            )
        if not written:
            raise CreateError if must_create else UpdateError
        return None

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            self.forget(session_digest(key))

    @classmethod
    def forget(cls, digest: str) -> None:
        """Remove the session with this `session_digest`."""
        with answering():
            cache.delete(_PREFIX + digest)

    @classmethod
    def clear_expired(cls) -> None:
        """Redis does it by itself."""


def _entry(session_key: str) -> str:
    return _PREFIX + session_digest(session_key)
