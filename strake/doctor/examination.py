"""What `manage.py doctor` finds, in order, except of this host's keyring, which the web half has no path to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from django.db import Error as DatabaseError
from django.db import connection

from accounts import database_errors
from credentials.vault import heartbeats
from strake.doctor import database, front, services
from strake.health import processes, stores, work
from strake.health.findings import BAD, WARN, Finding

EX_CONFIG = 78  # sysexits.h


def examine() -> Iterator[Finding]:
    """Ask every service, each for a few seconds at most. Nothing changes, and no email is sent."""
    found = list(database.look())
    yield from found
    is_usable = not any(finding.state == BAD for finding in found)
    if is_usable:
        yield from database.look_as_proxy()
    yield from services.look_at_redis()
    yield from services.look_at_mail()
    yield from services.look_at_names()
    yield from front.look()
    yield from stores.disks()
    if is_usable:
        yield from _if_readable(services.look_at_clocks, _servers, lambda: iter([work.last_backup()]))
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
    running = list(heartbeats.running())
    yield processes.servers(running)
    if running:
        yield from processes.other_versions(running)
        yield processes.master_keys(processes.proxies_of(running))
