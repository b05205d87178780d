"""Limits of what makes a thread of the web half wait for a provider: key checks, look-ups and connection tests.

A person may start `STRAKE_CHECKS_PER_MINUTE` of them, and few may wait at a time, so that silent destinations leave
threads for everybody's pages. Operators' commands are processes of their own and have no such limits.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar
from uuid import UUID

from django.conf import settings

from accounts.actors import Person
from accounts.errors import ServerBusy, TooManyRequests
from accounts.sign_in import throttle

P = ParamSpec("P")
R = TypeVar("R")

MAX_PER_PERSON = 2
RETRY_SECONDS = 5


def limited(service: Callable[P, R]) -> Callable[P, R]:
    """Decorate a service that may wait for a provider, for the person in its keyword `actor`.

    It then also raises `TooManyRequests`, `ServerBusy`, or `SessionStoreUnavailable` if checks cannot be counted.
    """

    @wraps(service)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        actor = kwargs["actor"]
        if not isinstance(actor, Person):
            return service(*args, **kwargs)
        with check_of(actor.user.pk):
            return service(*args, **kwargs)

    return wrapped


@contextmanager
def check_of(person_id: UUID) -> Iterator[None]:
    """Count one check of a person, and take a place while it runs. Raises as `limited` says."""
    with place_of(person_id):
        limit = throttle.Limit("outbound-checks", settings.STRAKE_CHECKS_PER_MINUTE, 60)
        verdict = throttle.count(limit, str(person_id))
        if verdict.exceeded:
            raise TooManyRequests(
                "You have reached the limit for checks of keys and connections, which is "
                f"{limit.count:,} a minute. Try again in {verdict.retry_after} seconds.",
                verdict.retry_after,
            )
        yield


_lock = threading.Lock()
_taken: Counter[UUID] = Counter()


@contextmanager
def place_of(person_id: UUID) -> Iterator[None]:
    """Take one of the places of this process for something that waits.

    Half of the threads may wait. A person's second place must leave half of the places free. Raises `TooManyRequests`
    or `ServerBusy`.
    """
    places = max(1, settings.STRAKE_WEB_THREADS // 2)
    with _lock:
        own, taken = _taken[person_id], _taken.total()
        if own >= MAX_PER_PERSON or (own and 2 * (taken + 1) > places):
            raise TooManyRequests(
                "Strake is still waiting for the answer to another check of yours. Try again in a moment.",
                RETRY_SECONDS,
            )
        if taken >= places:
            raise ServerBusy(
                "Strake is waiting for the answers to many checks. Nothing was saved. Try again in a moment.",
                RETRY_SECONDS,
            )
        _taken[person_id] += 1
    try:
        yield
    finally:
        with _lock:
            _taken[person_id] -= 1
            if not _taken[person_id]:
                del _taken[person_id]
