"""A fair queue: a fixed number of places, of which no owner gets more than a share."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")

_NOBODY = object()


class Shares(Generic[Item]):
    """Items that wait for a place, in a queue per owner. Owners take turns.

    After every `add` and `free`, call `next` until it returns None. Not thread-safe.
    """

    def __init__(self, *, total: int, per_owner: int) -> None:
        self._total = total
        self._per_owner = per_owner
        self._taken = 0
        self._taken_by: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[Item]] = {}

    @property
    def taken(self) -> int:
        """The number of places that are taken."""
        return self._taken

    def try_take(self, owner: Hashable) -> bool:
        """Take a place if there is one for this owner. `free` returns it."""
        if self._taken >= self._total or self._taken_by.get(owner, 0) >= self._per_owner:
            return False
        self._take(owner)
        return True

    def add(self, owner: Hashable, item: Item) -> None:
        self._waiting.setdefault(owner, deque()).append(item)

    def remove(self, owner: Hashable, item: Item) -> None:
        """Remove an item that has no place yet. Does nothing if it does not wait."""
        items = self._waiting.get(owner, ())
        if item in items:
            self._waiting[owner].remove(item)
            if not items:
                del self._waiting[owner]

    def waiting(self, owner: Hashable) -> int:
        """Return how many items of an owner wait."""
        return len(self._waiting.get(owner, ()))

    def next(self) -> tuple[Hashable, Item] | None:
        """Return an item that has a place from now on, and its owner. Returns None if none can have one."""
        if self._taken >= self._total:
            return None
        owner = next((owner for owner in self._waiting if self._taken_by.get(owner, 0) < self._per_owner), _NOBODY)
        if owner is _NOBODY:
            return None
        items = self._waiting.pop(owner)
        item = items.popleft()
        if items:
            self._waiting[owner] = items  # behind the other owners
        self._take(owner)
        return owner, item

    def free(self, owner: Hashable) -> None:
        """Return a place of this owner."""
        self._taken -= 1
        left = self._taken_by[owner] - 1
        if left:
            self._taken_by[owner] = left
        else:
            del self._taken_by[owner]

    def _take(self, owner: Hashable) -> None:
        self._taken += 1
        self._taken_by[owner] = self._taken_by.get(owner, 0) + 1
