"""Shared by the stores of sessions and limits: digests of session keys, and one exception for every store failure."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import OperationalError

from accounts.errors import SessionStoreUnavailable


def session_digest(session_key: str) -> str:
    """The stored form of a session key, 160 bits in hex. Somebody who reads the store cannot use it as a session."""
    return hashlib.sha256(b"strake.accounts.session-key:" + session_key.encode()).hexdigest()[:40]


@contextmanager
def translate_store_errors() -> Iterator[None]:
    """Turn the errors of Redis and the database into `SessionStoreUnavailable`."""
    try:
        yield
    except _client_errors():
        raise SessionStoreUnavailable(
            "Strake can't reach its session store. Nobody was signed out. Try again soon."
        ) from None


def _client_errors() -> tuple[type[Exception], ...]:
    """Evaluated when an error occurs. Without Redis, its library is not loaded, which saves six megabytes."""
    library = sys.modules.get("redis.exceptions")
    return (OSError, OperationalError) if library is None else (OSError, OperationalError, library.RedisError)
