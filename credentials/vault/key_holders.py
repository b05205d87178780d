"""Which running servers hold which master keys, by their heartbeats, and waiting until all hold one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import groupby

from django.conf import settings

from credentials.errors import MasterKeyNotEverywhere, NoServerSeen
from credentials.vault import heartbeats, keyring_command
from credentials.vault.keyring_document import Keyring
from credentials.vault.models import ServerProcess

_WAIT_SECONDS = 30.0
_REPORT_SECONDS = 30.0  # how often a wait says for whom

OnWait = Callable[[list[ServerProcess]], None]


def default_wait_seconds() -> float:
    """How long commands wait for servers: longer if those find a change only when they run a command again."""
    return _WAIT_SECONDS + (keyring_command.RERUN_SECONDS if settings.STRAKE_MASTER_KEYS_COMMAND else 0)


def running() -> list[ServerProcess]:
    """The processes that run now and hold master keys."""
    return list(heartbeats.running().filter(kind=ServerProcess.Kind.PROXY))


def has(process: ServerProcess, key_id: str, ring: Keyring) -> bool:
    """True if a process holds this very key. Operators of two hosts may have created two keys with the same id."""
    return process.key_ids.get(key_id) == ring.check_value(key_id).hex()


def check_running(*, no_server: bool) -> None:
    """Raise `NoServerSeen` if no process runs, unless the operator has said so: an empty table may be an outage."""
    if not no_server and not running():
        raise NoServerSeen


def wait_for_key(
    key_id: str, ring: Keyring, *, seconds: float, no_server: bool = False, on_wait: OnWait = lambda behind: None
) -> None:
    """Return once every running process holds a master key.

    `on_wait` is as for `wait_until`. Raises `NoServerSeen` as `check_running` does, and `MasterKeyNotEverywhere` after
    `seconds`.
    """
    check_running(no_server=no_server)
    if behind := wait_until(lambda process: has(process, key_id, ring), seconds, on_wait):
        raise MasterKeyNotEverywhere(key_id, names(behind))


def wait_until(
    is_ready: Callable[[ServerProcess], bool], seconds: float, on_wait: OnWait = lambda behind: None
) -> list[ServerProcess]:
    """Return once every running process is ready, or after `seconds`. Returns those that are not.

    `on_wait` gets those that are not ready when the wait begins, and then every 30 seconds.
    """
    report_at = time.monotonic()
    end = report_at + seconds
    while behind := [process for process in running() if not is_ready(process)]:
        now = time.monotonic()
        if now >= end:
            break
        if now >= report_at:
            on_wait(behind)
            report_at = now + _REPORT_SECONDS
        time.sleep(0.2)
    return behind


def names(processes: Iterable[ServerProcess]) -> str:
    """Hosts with the ids of their processes, for a message: "web-1 (812, 813), web-2 (97)"."""
    parts = sorted(process.name.rpartition(":")[::2] for process in processes)
    hosts = groupby(parts, key=lambda part: part[0])
    return ", ".join(f"{host} ({', '.join(number for _, number in group)})" for host, group in hosts)
