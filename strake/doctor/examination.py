"""What `manage.py doctor` finds, in order, except of this host's keyring, which the web half has no path to."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection

from accounts import database_errors
from credentials.vault import heartbeats
from credentials.vault.models import ServerProcess
from strake.doctor import database, front, services
from strake.pages import health
from strake.pages.health import BAD, GOOD, WARN, Finding

EX_CONFIG = 78  # sysexits.h
WARN_FREE_BYTES, MIN_FREE_BYTES = 1_000_000_000, 100_000_000


def examine() -> Iterator[Finding]:
    """Ask every service, each for a few seconds at most. Nothing changes, and no email is sent."""
    found = list(database.look())
    yield from found
    is_usable = not any(finding.state == BAD for finding in found)
    yield from services.look_at_redis()
    yield from services.look_at_mail()
    yield from services.look_at_names()
    yield from front.look()
    yield from _disk()
    if is_usable:
        yield from _if_readable(services.look_at_clocks, _servers, lambda: iter([health.last_backup()]))
    connection.close()


def exit_code(findings: list[Finding]) -> int:
    """0 if all is well, 1 if there are warnings, and 78 if something is wrong."""
    states = {finding.state for finding in findings}
    return EX_CONFIG if BAD in states else 1 if WARN in states else 0


def _if_readable(*looks: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        for look in looks:
            yield from look()
    except DatabaseError as error:
        yield Finding("Database", BAD, database_errors.reason(error))


def _servers() -> Iterator[Finding]:
    """Versions and keyrings of the processes that run, on every host."""
    processes = list(heartbeats.running())
    if not processes:
        yield Finding("Servers", WARN, "none is running, or none reaches this database")
        return
    hosts = sorted({process.name.rpartition(":")[0] for process in processes})
    yield Finding("Servers", GOOD, f"{len(processes)} processes on {', '.join(hosts)}")
    yield from health.other_versions(processes)
    yield health.master_keys([one for one in processes if one.kind == ServerProcess.Kind.PROXY])


def _disk() -> Iterator[Finding]:
    folders = [Path("/var/log")]
    if settings.STRAKE_EMBEDDED:
        folders.insert(0, settings.STRAKE_HOME.path)
    seen = set()
    for folder in filter(Path.exists, folders):
        if (device := folder.stat().st_dev) in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(folder).free
        state = BAD if free < MIN_FREE_BYTES else WARN if free < WARN_FREE_BYTES else GOOD
        yield Finding("Disk", state, f"{folder} has {free / 1e9:.1f} GB left")
