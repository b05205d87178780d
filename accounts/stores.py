"""What the stores behind sessions and limits have in common: hashed keys, and one error when they do not answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError

from accounts.errors import StoreUnavailable


def session_digest(session_key: str) -> str:
    """What a store keeps in place of a session key, 160 bits in hex: reading the store gives nobody a session."""
    return hashlib.sha256(b"strake.accounts.session-key:" + session_key.encode()).hexdigest()[:40]


@contextmanager
def answering() -> Iterator[None]:
    """Turn "the store does not answer" into `StoreUnavailable`, whatever the client library calls it."""
    try:
        yield
    except (RedisError, OSError):
        raise StoreUnavailable(
            "Strake cannot reach its session store. Nobody was signed out; try again soon."
        ) from None
