"""The page that tells an operator how this Strake is. It looks; it changes and opens nothing."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import django
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from accounts import background
from credentials import keyring, keyring_guard, presence
from credentials.errors import SealError
from proxy import journal
from proxy.models import RequestRecord
from strake import __version__

# The journal writes twice a second. Behind for this long, something holds it up.
LATE_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the page: what was looked at, how it is, and in words."""

    name: str
    good: bool
    words: str


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    findings = [
        _timed("Database", _database),
        _timed("Cache", _cache),
        _keyring(),
        _mail(),
        _journal(),
    ]
    context = {
        "findings": findings,
        "all_good": all(finding.good for finding in findings),
        "processes": presence.running().order_by("name"),
        "newest": RequestRecord.objects.order_by("-at").values_list("at", flat=True).first(),
        "versions": {
            "Strake": __version__,
            "Python": platform.python_version(),
            "Django": django.get_version(),
            connection.display_name: _database_version(),
        },
        "base_url": settings.STRAKE_BASE_URL,
    }
    return render(request, "strake/health.html", context)


def _timed(name: str, look: Callable[[], object]) -> Finding:
    start = time.perf_counter()
    try:
        look()
    except Exception as error:  # noqa: BLE001  (each store has errors of its own, and one line must not cost the others)
        return Finding(name, False, f"does not answer ({type(error).__name__})")
    return Finding(name, True, f"answers in {(time.perf_counter() - start) * 1000:.1f} ms")


def _database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _cache() -> None:
    cache.set("strake.health", "1", 10)
    if cache.get("strake.health") != "1":
        raise LookupError


def _keyring() -> Finding:
    try:
        ring = keyring.current()
    except SealError as error:
        return Finding("Master keys", False, str(error))
    if wrong := keyring_guard.wrong_ids(ring):
        return Finding("Master keys", False, f"not the keys they were: {', '.join(wrong)}")
    if missing := keyring_guard.missing_ids(ring):
        lost = ", ".join(f"{key_id} ({count} endpoints)" for key_id, count in missing.items())
        return Finding("Master keys", False, f"missing, so these endpoints need their key again: {lost}")
    return Finding("Master keys", True, f"{ring.primary_id} seals; loaded: {', '.join(ring.ids)}")


def _mail() -> Finding:
    waiting = background.queue.waiting
    return Finding("Mails waiting in this process", waiting < 100, str(waiting))


def _journal() -> Finding:
    name = "Request records waiting in this process"
    running = journal.of_this_process()
    if running is None or not running.waiting:
        return Finding(name, True, "0")
    behind = running.lag_seconds
    return Finding(name, behind < LATE_SECONDS, f"{running.waiting:,}, {behind:.1f} s behind")


def _database_version() -> str:
    if connection.vendor == "sqlite":
        import sqlite3

        return sqlite3.sqlite_version
    return str(getattr(connection, "pg_version", ""))
