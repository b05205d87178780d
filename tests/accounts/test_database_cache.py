"""The cache in the database: atomic between threads and processes, JSON only, and no counter lost."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.db import OperationalError, connections
from django.utils import timezone

from accounts.database_cache import DatabaseCache
from accounts.errors import SessionStoreUnavailable
from accounts.models import CacheEntry
from accounts.sign_in import throttle
from tests.accounts.processes import printed, run_python, run_together
from tests.support.running import Strake


def later(seconds: float) -> Any:
    return time_machine.travel(timezone.now() + timedelta(seconds=seconds), tick=False)


@pytest.mark.django_db
@pytest.mark.parametrize("value", [0, -7, True, None, "", "text", 1.5, [1, "a"], {"a": {"b": None}}])
def test_values_come_back_as_they_were(value: Any) -> None:
    cache.set("key", value, 60)
    found = cache.get("key", "missing")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.django_db
def test_entries_expire() -> None:
    cache.set("short", 1, 10)
    cache.set("long", 1, None)
    with later(9):
        assert cache.get("short") == 1
    with later(11):
        assert (cache.get("short"), cache.get("long"), "short" in cache) == (None, 1, False)
        with pytest.raises(ValueError, match="no such counter"):
            cache.incr("short")
        assert cache.add("short", 5, 10)
        assert cache.get("short") == 5


@pytest.mark.django_db
def test_add_keeps_an_entry_and_set_replaces_it() -> None:
    assert cache.add("key", "first", 60)
    assert not cache.add("key", "second", 60)
    assert cache.get("key") == "first"
    cache.set("key", 3, 60)
    assert (cache.incr("key", 2), cache.decr("key")) == (5, 4)
    cache.set("key", "third", 60)
    assert cache.get("key") == "third"
    with pytest.raises(ValueError, match="no such counter"):
        cache.incr("key")


@pytest.mark.django_db
def test_touch_delete_and_clear() -> None:
    cache.set("key", 1, 10)
    assert cache.touch("key", 100)
    assert not cache.touch("other", 100)
    with later(50):
        assert cache.get("key") == 1
    assert (cache.delete("key"), cache.delete("key")) == (True, False)
    cache.set_many({"a": 1, "b": 2}, 10)
    assert cache.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
    cache.clear()
    assert cache.get("a") is None


@pytest.mark.django_db
def test_any_key_is_possible() -> None:
    """Part of a key may come from a form."""
    for key in ["a\x00b", "with space", "é", "x" * 5000, "x" * 5000 + "y"]:
        assert cache.add(key, key, 60)
        assert cache.get(key) == key


@pytest.mark.django_db
def test_nothing_is_pickled() -> None:
    cache.set("key", {"a": 1}, 60)
    assert CacheEntry.objects.values_list("value", flat=True).get() == {"a": 1}
    with pytest.raises(TypeError, match="not JSON serializable"):
        cache.set("key", object(), 60)


@pytest.mark.django_db
def test_only_expired_entries_are_purged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DatabaseCache, "_last_purge", float("-inf"))
    cache.set("counter", 7, 900)
    for number in range(400):  # Django's caches remove entries beyond 300
        cache.add(f"short {number}", 1, 10)
    with later(60):
        cache.add("other", 1, 900)
        assert CacheEntry.objects.count() == 402, "it purges once a minute"
        monkeypatch.setattr(DatabaseCache, "_last_purge", float("-inf"))
        cache.add("another", 1, 900)
        assert CacheEntry.objects.count() == 3
        assert DatabaseCache._last_purge > float("-inf")
        assert cache.incr("counter") == 8


@pytest.mark.django_db(transaction=True)
def test_one_of_many_threads_adds() -> None:
    added: list[bool] = []
    barrier = threading.Barrier(20)

    def add() -> None:
        barrier.wait()
        try:
            added.append(cache.add("key", 1, 60))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=add) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(added) == [False] * 19 + [True]


@pytest.mark.django_db
def test_unavailable_database_fails_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(DatabaseCache, "add", fail)
    with pytest.raises(SessionStoreUnavailable):
        throttle.count(throttle.LINKS_PER_EMAIL, "alice@example.org")


def test_concurrent_counts_are_not_lost(installation: Strake) -> None:
    """Two processes of two threads. A counter that is read and then written loses counts."""
    code = """
import threading
from django.core.cache import cache
from django.db import connections

def count():
    try:
        for _ in range(500):
            if not cache.add("counter", 1, 900):
                cache.incr("counter")
    finally:
        connections.close_all()

print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=count) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    for done in run_together(installation, [code, code], wait_for="ready"):
        printed(done)
    read = "from django.core.cache import cache; print(cache.get('counter'))"
    assert printed(run_python(installation, read)) == "2000"


def test_limits_survive_a_restart(installation: Strake) -> None:
    code = """
import json
from accounts.sign_in import throttle
limit = throttle.LINKS_PER_ADDRESS
print(json.dumps([throttle.count(limit, "192.0.2.1").exceeded for _ in range(NUMBER)]))
"""
    first = run_python(installation, code.replace("NUMBER", "limit.count"))
    assert json.loads(printed(first)) == [False] * throttle.LINKS_PER_ADDRESS.count
    assert json.loads(printed(run_python(installation, code.replace("NUMBER", "1")))) == [True]
