"""What a web process counts, and asks the database, for the metrics."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from django.http import HttpRequest, HttpResponse

from accounts import outbox
from accounts.metrics import OTHER, Counter, Gauge, Histogram
from proxy.metrics import database_pool
from strake import pruning
from strake.backups import history

PAGES = Counter("strake_pages_total", "Pages and API calls, by the name of their view.", ["view", "status_class"])
PAGE_DURATION = Histogram(
    "strake_page_duration_seconds",
    "Time that the web half took for a page or an API call.",
    ["view"],
    seconds=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
MAIL = Gauge("strake_outbox_emails", "Emails that wait to be sent, of all hosts.", merge="max")
BACKED_UP = Gauge("strake_last_backup_timestamp_seconds", "When `manage.py backup` last succeeded.", merge="max")
PRUNED = Gauge("strake_last_prune_timestamp_seconds", "When expired rows were last removed.", merge="max")


class CountPages:
    """Middleware that counts responses by view. What leads to no view counts as "other"."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        started = perf_counter()
        response = self.get_response(request)
        match = request.resolver_match
        view = (match.view_name if match is not None else "") or OTHER
        PAGES.add(view, f"{response.status_code // 100}xx")
        PAGE_DURATION.observe(perf_counter() - started, view)
        return response


def measure(process: str) -> None:
    """Bring the metrics of this process up to date."""
    database_pool.measure()


def look() -> None:
    """Ask the database and the cache. Raises their errors."""
    MAIL.set(outbox.waiting(outbox.MAIL))
    if (pruned_at := pruning.last_end()) is not None:
        PRUNED.set(pruned_at)
    if (backed_up_at := history.last()) is not None:
        BACKED_UP.set(backed_up_at.timestamp())
