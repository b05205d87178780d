"""The health page for operators. It changes nothing, and it knows master keys only from what proxy processes report."""

from __future__ import annotations

import platform
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import django
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from accounts import outbox
from accounts.errors import SessionStoreUnavailable
from accounts.sign_in import throttle
from credentials.models import Endpoint, SealedKey
from credentials.vault import heartbeats
from credentials.vault.models import MasterKeyCheck, ServerProcess
from proxy.request_log.stats import newest_record_at
from strake import __version__
from strake.backups import history

# The request log writes twice a second, so a longer lag means that its writes are blocked.
MAX_LAG_SECONDS = 10
MAX_WAITING_EMAILS = 100
MAX_ENDPOINTS = 10  # of those with requests open now, the busiest

GOOD, WARN, BAD = "good", "warn", "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the page: the component, its state, and the details in words."""

    name: str
    state: str
    words: str


@dataclass(frozen=True, slots=True)
class OpenRequests:
    """The requests that all proxy processes forward now, and the busiest endpoints, each with its number of them."""

    total: int
    busiest: list[tuple[Endpoint, int]]

    @property
    def others(self) -> int:
        """Requests of endpoints that are not among the busiest."""
        return self.total - sum(count for _, count in self.busiest)


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    processes = list(heartbeats.running())
    proxies = [process for process in processes if process.kind == ServerProcess.Kind.PROXY]
    findings = [
        _timed("Database", _database),
        _timed("Cache", _cache),
        _proxy(proxies),
        *other_versions(processes),
        master_keys(proxies),
        _request_log(proxies),
        _mail(),
        _mail_volume(),
        last_backup(),
    ]
    context = {
        "findings": findings,
        "all_good": all(finding.state != BAD for finding in findings),
        "processes": processes,
        "open_requests": _open_requests(proxies),
        "newest": newest_record_at(),
        "versions": {
            "Strake": __version__,
            "Python": platform.python_version(),
            "Django": django.get_version(),
            connection.display_name: _database_version(),
        },
        "base_url": settings.STRAKE_BASE_URL,
        "beat_seconds": round(heartbeats.BEAT_SECONDS),
    }
    return render(request, "strake/health.html", context)


def _timed(name: str, probe: Callable[[], object]) -> Finding:
    start = time.perf_counter()
    try:
        probe()
    except Exception as error:  # noqa: BLE001  (each store raises other errors, and one line must not break the page)
        return Finding(name, BAD, f"does not respond ({type(error).__name__})")
    return Finding(name, GOOD, f"responds in {(time.perf_counter() - start) * 1000:.1f} ms")


def _database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _cache() -> None:
    cache.set("strake.pages.health", "1", 10)
    if cache.get("strake.pages.health") != "1":
        raise LookupError


def _proxy(proxies: Sequence[ServerProcess]) -> Finding:
    if not proxies:
        return Finding("Proxy", BAD, f"No proxy process has reported for {heartbeats.EXPIRY_SECONDS:.0f} s.")
    return Finding("Proxy", GOOD, f"{_counted(len(proxies), 'process', 'processes')} forwarding requests")


def other_versions(processes: Sequence[ServerProcess]) -> Iterator[Finding]:
    """A note if processes run another version than this page, as during an upgrade."""
    if others := [process for process in processes if process.version != __version__]:
        listed = ", ".join(f"{process.name} ({process.version or 'older'})" for process in others)
        yield Finding("Other versions", WARN, f"Restart these processes to finish the upgrade: {listed}")


def master_keys(proxies: Sequence[ServerProcess]) -> Finding:
    if not proxies:
        return Finding("Master keys", WARN, "unknown until a proxy process reports")
    if problems := list(_key_problems(proxies)):
        return Finding("Master keys", BAD, " ".join(problems))
    ring = proxies[0]
    return Finding("Master keys", GOOD, f"{ring.primary_key_id} is primary. Loaded: {', '.join(sorted(ring.key_ids))}")


def _key_problems(proxies: Sequence[ServerProcess]) -> Iterator[str]:
    """Sentences about what is wrong with the keyrings that the proxy processes have loaded."""
    checks = {check.key_id: check for check in MasterKeyCheck.objects.all()}
    loaded = {pair for process in proxies for pair in process.key_ids.items()}
    ids = Counter(key_id for key_id, _ in loaded)
    if wrong := sorted({key_id for key_id, value in loaded if key_id in checks and value != _value(checks[key_id])}):
        yield f"Changed since their ids were first used: {', '.join(wrong)}."
    if ambiguous := sorted(key_id for key_id, keys in ids.items() if keys > 1):
        yield f"Different keys in different processes: {', '.join(ambiguous)}."
    keyrings: dict[str, list[str]] = defaultdict(list)
    for process in proxies:
        keyrings[f"{process.primary_key_id} is primary, {', '.join(sorted(process.key_ids))} loaded"].append(
            process.name
        )
    if len(keyrings) > 1:
        listed = ". ".join(f"{', '.join(names)}: {keyring}" for keyring, names in sorted(keyrings.items()))
        yield f"The processes have loaded different keyrings. {listed}."
    for primary_id in sorted({process.primary_key_id for process in proxies}):
        if primary_id in checks and checks[primary_id].retired_at is not None:
            yield f"{primary_id} is primary but retired, so no key can be saved. Make another one primary."
    if missing := SealedKey.objects.count_by_missing_key(ids):
        lost = ", ".join(f"{key_id} ({_counted(count, 'endpoint', 'endpoints')})" for key_id, count in missing.items())
        yield f"Missing, so these endpoints need their key again: {lost}."


def _value(check: MasterKeyCheck) -> str:
    return bytes(check.check_value).hex()


def _request_log(proxies: Sequence[ServerProcess]) -> Finding:
    waiting, lost = sum(process.waiting for process in proxies), sum(process.lost for process in proxies)
    lag = max((process.lag_seconds for process in proxies), default=0.0)
    words = f"{_counted(waiting, 'record', 'records')} waiting"
    if waiting:
        words += f", {lag:.1f} s behind"
    if lost:
        words += f". {lost:,} lost since the processes started"
    return Finding("Request log", BAD if lag >= MAX_LAG_SECONDS else WARN if lost else GOOD, words)


def _mail() -> Finding:
    waiting = outbox.waiting(outbox.MAIL)
    return Finding("Emails waiting", GOOD if waiting < MAX_WAITING_EMAILS else BAD, f"{waiting:,}")


def _mail_volume() -> Finding:
    alarm = throttle.MAIL_ALARM
    try:
        sent = throttle.used(alarm, "")
    except SessionStoreUnavailable:
        return Finding("Sign-in emails", WARN, "unknown while the cache does not respond")
    words = f"{sent:,} in this hour"
    if sent > alarm.count:
        return Finding(
            "Sign-in emails", WARN, f"{words}, more than {alarm.count:,}. Somebody may be flooding addresses."
        )
    return Finding("Sign-in emails", GOOD, words)


def last_backup() -> Finding:
    """When `manage.py backup` last made one. Other ways of making a backup are as good, so none is no problem."""
    at = history.last()
    words = f"{at:%Y-%m-%d %H:%M} UTC" if at else f"none with `manage.py backup` in {history.DAYS} days"
    return Finding("Last backup", GOOD, words)


def _open_requests(proxies: Sequence[ServerProcess]) -> OpenRequests:
    counts: Counter[str] = Counter()
    for process in proxies:
        counts.update(process.in_flight)
    busiest = counts.most_common(MAX_ENDPOINTS)
    # An endpoint may have been deleted meanwhile.
    endpoints = Endpoint.objects.filter(pk__in=[pk for pk, _ in busiest]).select_related("owner")
    known = {str(endpoint.pk): endpoint for endpoint in endpoints}
    return OpenRequests(
        total=sum(process.in_flight_total for process in proxies),
        busiest=[(known[pk], count) for pk, count in busiest if pk in known],
    )


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _database_version() -> str:
    if connection.vendor == "sqlite":
        import sqlite3

        return sqlite3.sqlite_version
    return str(getattr(connection, "pg_version", ""))
