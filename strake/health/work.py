"""Findings about work in the background, and about requests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from django.db.models import Q, Sum
from django.utils import timezone
from django.utils.timesince import timesince

from accounts import outbox
from accounts.errors import SessionStoreUnavailable
from accounts.sign_in import throttle
from proxy.models import RequestRollup
from strake import pruning
from strake.backups import history
from strake.health.findings import BAD, GOOD, WARN, Finding, counted

MAX_WAITING_EMAILS = 100
MAX_ERROR_SHARE = 0.05
FEW_REQUESTS = 100  # of which a few errors are no sign of anything
MAX_PRUNE_AGE = timedelta(hours=6)  # a web process prunes every hour


def errors() -> Iterator[Finding]:
    """The share of requests that ended with 5xx, from Strake or a provider, by the hourly totals."""
    this_hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    last_hour, day = this_hour - timedelta(hours=1), this_hour - timedelta(hours=23)
    recent, failed = Q(hour__gte=last_hour), Q(status_class__gte=5)
    found = RequestRollup.objects.filter(hour__gte=day).aggregate(
        day=Sum("count", default=0),
        day_failed=Sum("count", filter=failed, default=0),
        hours=Sum("count", filter=recent, default=0),
        hours_failed=Sum("count", filter=recent & failed, default=0),
    )
    yield _errors("Errors, this hour and the last", found["hours"], found["hours_failed"])
    yield _errors("Errors, 24 h", found["day"], found["day_failed"])


def last_prune() -> Finding:
    """When expired rows were last removed. Raises the cache's errors."""
    seconds = pruning.last_end()
    if seconds is None:
        return Finding("Last prune", WARN, "none known yet. A web process removes expired rows every hour.")
    at = datetime.fromtimestamp(seconds, UTC)
    if timezone.now() - at > MAX_PRUNE_AGE:
        return Finding("Last prune", WARN, f"{_moment(at)}. See the log for pruning_failed or pruning_refused.")
    return Finding("Last prune", GOOD, _moment(at))


def last_backup() -> Finding:
    """When `manage.py backup` last made one."""
    at = history.last()
    if at is None:
        return Finding("Last backup", WARN, f"none with manage.py backup in {history.DAYS} days. Is there another one?")
    return Finding("Last backup", GOOD, _moment(at))


def mail_waiting() -> Finding:
    waiting = outbox.waiting(outbox.MAIL)
    return Finding("Emails waiting", GOOD if waiting < MAX_WAITING_EMAILS else BAD, f"{waiting:,}")


def mail_volume() -> Finding:
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


def _errors(name: str, total: int, failed: int) -> Finding:
    if not total:
        return Finding(name, GOOD, "no requests")
    words = f"{failed:,} of {counted(total, 'request')}"
    if failed * 1000 >= total:
        words += f", {failed / total * 100:.1f} %"
    is_bad = total >= FEW_REQUESTS and failed > MAX_ERROR_SHARE * total
    return Finding(name, WARN if is_bad else GOOD, words)


def _moment(at: datetime) -> str:
    """A time with its age: `2026-11-29 03:00 UTC, 10 hours ago`."""
    seconds = (timezone.now() - at).total_seconds()
    age = "just now" if seconds < 60 else f"{timesince(at).split(',')[0]} ago".replace("\xa0", " ")
    return f"{at:%Y-%m-%d %H:%M} UTC, {age}"
