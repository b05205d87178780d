"""Faults of PostgreSQL, Redis, the network and disks, as (name, begin, end, seconds)."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack

import psycopg
import redis

from tests.harness.site import Site

Step = Callable[[Site], object]
_held = ExitStack()


def _redis(site: Site, *command: str) -> None:
    with redis.Redis.from_url(site.redis.url) as client:
        client.execute_command(*command)


def empty_redis(site: Site) -> None:
    """Redis starts again without its data: everybody is signed out, and limits begin anew."""
    _redis(site, "FLUSHALL")


def fill_connections(site: Site) -> None:
    """Others take every connection that is left."""
    url = site.primary.url_of("strake")
    with contextlib.suppress(psycopg.OperationalError):
        while True:
            _held.enter_context(psycopg.connect(url))


def free_connections(_: Site) -> None:
    _held.close()


def sign_in_again(site: Site) -> None:
    site.sign_in()


def silence(site: Site, is_silent: bool) -> None:
    site.names.answers = not is_silent


def nothing(_: Site) -> None:
    """The fault stays."""


def stop_primary(site: Site) -> None:
    site.primary.stop()


def start_primary(site: Site) -> None:
    site.primary.start()


def fill_disk(site: Site) -> None:
    """Fill the disk of PostgreSQL's tables, to the last block."""
    with contextlib.suppress(OSError), (site.folder / "disk-db1/fill").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def free_disk(site: Site) -> None:
    (site.folder / "disk-db1/fill").unlink()


def kill_and_promote(site: Site) -> None:
    site.primary.stop()
    site.standby.promote()


def unplug_and_promote(site: Site) -> None:
    site.database_machine.unplug()
    site.standby.promote()


FAULTS: list[tuple[str, Step, Step, float, bool]] = [
    (
        "Redis is away for 10 s",
        lambda site: site.redis.stop(),
        lambda site: site.redis.start(),
        10,
        False,
    ),
    (
        "Redis hangs for 10 s",
        lambda site: os.kill(site.redis.pid, signal.SIGSTOP),
        lambda site: os.kill(site.redis.pid, signal.SIGCONT),
        10,
        False,
    ),
    (
        "Redis is full for 10 s",
        lambda site: _redis(site, "CONFIG", "SET", "maxmemory", "1"),
        lambda site: _redis(site, "CONFIG", "SET", "maxmemory", "0"),
        10,
        False,
    ),
    ("no name is resolved for 10 s", lambda site: silence(site, True), lambda site: silence(site, False), 10, False),
    ("PostgreSQL is restarted, and away for 3 s", stop_primary, start_primary, 3, False),
    (
        "PostgreSQL is unreachable for 10 s",
        lambda site: site.database_machine.unplug(),
        lambda site: site.database_machine.plug(),
        10,
        False,
    ),
    ("PostgreSQL accepts no more connections for 10 s", fill_connections, free_connections, 10, False),
    ("PostgreSQL's disk is full for 10 s", fill_disk, free_disk, 10, False),
    ("Redis loses its data", empty_redis, sign_in_again, 3, False),
    ("PostgreSQL is killed, and the standby promoted", kill_and_promote, nothing, 3, True),
    ("PostgreSQL is unreachable, and the standby promoted", unplug_and_promote, nothing, 3, True),
]
