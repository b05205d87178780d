"""Django's cache in a table, used if no Redis is configured. It holds rate limits and the results of forms.

It differs from Django's own database cache: `add` and `incr` are atomic between threads and processes, values are JSON
(unpickling would turn write access to the table into code execution), and an entry stays until it expires, since a
counter that was removed to make room would no longer limit.
"""

from __future__ import annotations

import hashlib
import time
from datetime import datetime, timedelta
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from accounts.models import CacheEntry

_PURGE_SECONDS = 60


class DatabaseCache(BaseCache):
    """A cache in the table of `CacheEntry`. Whole numbers are counters that `incr` changes."""

    _last_purge = 0.0  # of this process, whose threads each have an instance

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        entry = self._rows(key, version).filter(_live()).first()
        if entry is None:
            return default
        return entry.value if entry.number is None else entry.number

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        self._purge()
        CacheEntry.objects.bulk_create(
            [self._entry(key, value, timeout, version)],
            update_conflicts=True,
            unique_fields=["key_digest"],
            update_fields=["number", "value", "expires_at"],
        )

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        self._purge()
        with transaction.atomic():
            self._rows(key, version).filter(_expired()).delete()
            entry = self._entry(key, value, timeout, version)
            _, created = CacheEntry.objects.get_or_create(
                key_digest=entry.key_digest,
                defaults={"number": entry.number, "value": entry.value, "expires_at": entry.expires_at},
            )
        return created

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        rows = self._rows(key, version).filter(_live(), number__isnull=False)
        with transaction.atomic():
            # The update locks the row, or on SQLite the transaction the database, until the new number is read.
            if not rows.update(number=F("number") + delta):
                raise ValueError("There is no such counter.")
            return int(rows.values_list("number", flat=True).get() or 0)

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return bool(self._rows(key, version).filter(_live()).update(expires_at=self._expiry(timeout)))

    def delete(self, key: str, version: int | None = None) -> bool:
        deleted, _ = self._rows(key, version).delete()
        return bool(deleted)

    def clear(self) -> None:
        CacheEntry.objects.all().delete()

    def _rows(self, key: str, version: int | None) -> QuerySet[CacheEntry]:
        return CacheEntry.objects.filter(key_digest=self._digest(key, version))

    def _entry(self, key: str, value: Any, timeout: Any, version: int | None) -> CacheEntry:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return CacheEntry(
            key_digest=self._digest(key, version),
            number=value if is_number else None,
            value=None if is_number else value,
            expires_at=self._expiry(timeout),
        )

    def _digest(self, key: str, version: int | None) -> str:
        """The stored form of a key. Keys may have any length and contain what people send."""
        return hashlib.sha256(self.make_key(key, version).encode()).hexdigest()

    def _expiry(self, timeout: Any) -> datetime | None:
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else timezone.now() + timedelta(seconds=timeout)

    def _purge(self) -> None:
        """Delete expired entries, once a minute."""
        if time.monotonic() - DatabaseCache._last_purge >= _PURGE_SECONDS:
            DatabaseCache._last_purge = time.monotonic()
            CacheEntry.objects.filter(_expired()).delete()


def _live() -> Q:
    return Q(expires_at=None) | Q(expires_at__gt=timezone.now())


def _expired() -> Q:
    return Q(expires_at__lte=timezone.now())
