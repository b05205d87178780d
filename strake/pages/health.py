"""The health page for staff. It changes nothing, and it knows master keys only from what proxy processes report."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence

import django
from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from accounts.sessions.decorators import staff_required
from credentials.models import ServerProcess
from credentials.vault import heartbeats
from proxy.request_log.stats import newest_record_at
from strake import __version__
from strake.doctor import services
from strake.health import processes as servers
from strake.health import stores, work
from strake.health.findings import BAD, GOOD, Finding


@staff_required
@require_safe
def home(request: HttpRequest) -> HttpResponse:
    return redirect("operators:health")


@staff_required
@require_safe
def page(request: HttpRequest) -> HttpResponse:
    processes = list(heartbeats.running())
    proxies = servers.proxies_of(processes)
    keys = servers.list_master_keys(proxies)
    findings = [
        *_stores(),
        *_servers(processes, proxies),
        servers.master_keys(proxies),
        servers.rotation(keys),
        servers.request_log(proxies),
        *work.errors(),
        work.mail_waiting(),
        work.mail_volume(),
        stores.asked("Last prune", work.last_prune),
        work.last_backup(),
        *stores.disks(),
    ]
    context = {
        "findings": findings,
        "all_good": all(finding.state != BAD for finding in findings),
        "processes": processes,
        "master_keys": keys,
        "proxies": len(proxies),
        "open_requests": servers.open_requests(proxies),
        "newest": newest_record_at(),
        "tables": stores.tables(),
        "versions": {
            "Strake": __version__,
            "Python": platform.python_version(),
            "Django": django.get_version(),
            connection.display_name: stores.version(),
        },
        "base_url": settings.STRAKE_BASE_URL,
        "beat_seconds": round(heartbeats.BEAT_SECONDS),
    }
    return render(request, "strake/health.html", context)


def _stores() -> Iterator[Finding]:
    yield stores.timed("Database", stores.ask_database)
    yield Finding("Database size", GOOD, stores.sizes().words)
    yield stores.timed("Cache", stores.ask_cache)
    yield from services.look_at_redis()


def _servers(processes: Sequence[ServerProcess], proxies: Sequence[ServerProcess]) -> Iterator[Finding]:
    yield servers.forwarding(proxies)
    yield servers.servers(processes)
    yield from servers.other_versions(processes)
