"""Sessions in Redis. Unlike Django's cache sessions, an outage raises an error and signs nobody out."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.core.cache import cache

from accounts.sessions.store import session_digest, translate_store_errors

_PREFIX = "session:"


class SessionStore(SessionBase):
    """A session, stored under a digest of its key until it expires. Methods raise `SessionStoreUnavailable`."""

    def load(self) -> dict[str, Any]:
        if self.session_key is None:
            return {}
        with translate_store_errors():
            try:
                data = cache.get(_entry(self.session_key))
            except ValueError:
                data = None  # not JSON, so not written by this class
        if isinstance(data, dict):
            return data
        self._session_key = None
        return {}

    def exists(self, session_key: str) -> bool:
        with translate_store_errors():
            return bool(session_key) and cache.has_key(_entry(session_key))

    def create(self) -> None:
        # Keys of 32 random characters do not collide. Django retries forever, which would hide an outage.
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
        # `xx` overwrites an existing entry and never creates one, atomically. So a request that ends after its
        # session was signed out elsewhere cannot restore it.
        condition = {"nx": True} if must_create else {"xx": True}
        with translate_store_errors():
            written = cache.set(  # type: ignore[func-returns-value]
                _entry(self.session_key), data, self.get_expiry_age(), **condition
            )
        if not written:
            raise CreateError if must_create else UpdateError
        return None

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            self.delete_digest(session_digest(key))

    @classmethod
    def delete_digest(cls, digest: str) -> None:
        """Delete the session with this `session_digest`."""
        with translate_store_errors():
            cache.delete(_PREFIX + digest)

    @classmethod
    def clear_expired(cls) -> None:
        """Redis expires entries itself."""


def _entry(session_key: str) -> str:
    return _PREFIX + session_digest(session_key)
