"""The steps in which a half starts: listen, check the configuration and the database, then run gunicorn."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.core.checks import CheckMessage, registry, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DatabaseError, connection, connections

from accounts import database_errors
from credentials import local_addresses
from strake.data_dir import DataDir
from strake.database_url import FILES
from strake.metrics import snapshots
from strake.processes import landlock, listen
from strake.processes.hardening import end_with_parent
from strake.processes.listen import UnixAddress
from strake.processes.runtime import Half

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


class StartupError(Exception):
    """Strake cannot start. `exit_code` is for the service manager: a number of sysexits.h or errno.h."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def open_listeners(half: Half) -> list[socket.socket]:
    """The sockets of a half. Before anything else happens, so that a port in use is the first message.

    Sockets that systemd passed take the place of `STRAKE_BIND`. Raises `StartupError` or `ImproperlyConfigured`.
    """
    runtime, mode = settings.STRAKE_RUNTIME, settings.STRAKE_RUNTIME.socket_mode
    runtime.prepare(half)
    try:
        if half == "web":
            return listen.open_sockets([UnixAddress(runtime.web_socket, mode)])
        passed = [socket.socket(fileno=descriptor) for descriptor in listen.passed_descriptors()]
        public = passed or listen.open_sockets(settings.STRAKE_BIND)
        local_addresses.add_listeners(public)  # so that no endpoint leads back here
        internal = [UnixAddress(path, mode) for path in (runtime.proxy_socket, runtime.wrap_socket)]
        return public + listen.open_sockets(internal)
    except listen.CannotListen as error:
        raise StartupError(str(error), exit_code=error.errno) from None


def open_metrics_listeners(half: Half) -> list[socket.socket]:
    """The sockets of `STRAKE_METRICS_BIND`, for the proxy half. Removes what earlier processes have published.

    Raises `StartupError`.
    """
    snapshots.remove(settings.STRAKE_RUNTIME.folder / half)
    if half == "web":
        return []
    try:
        listeners = listen.open_sockets(settings.STRAKE_METRICS_BIND)
    except listen.CannotListen as error:
        raise StartupError(f"STRAKE_METRICS_BIND: {error}", exit_code=error.errno) from None
    local_addresses.add_listeners(listeners)
    return listeners


@contextmanager
def in_child(work: Callable[[], None]) -> Iterator[None]:
    """Run `work` in a child while the block runs, and wait for it. If it fails, end with its exit code.

    What the work has loaded, such as every migration and a keyring, is then in no process that stays.
    """
    child = os.fork()
    if child == 0:
        end_with_parent()
        work()
        connections.close_all()
        sys.stdout.flush()
        os._exit(0)  # at once: tearing the interpreter down would delay the start
    try:
        yield
    finally:
        _, status = os.waitpid(child, 0)
        if code := os.waitstatus_to_exitcode(status):
            sys.exit(code)  # it has said why


def check_numbers() -> None:
    """Refuse several processes of a half on SQLite. Raises `ImproperlyConfigured`."""
    if not settings.DATABASE_URL and max(settings.WEB_CONCURRENCY, settings.STRAKE_WEB_WORKERS) > 1:
        raise ImproperlyConfigured(
            "With SQLite, one proxy process and one web process run: limits are counted in each process. Remove "
            "WEB_CONCURRENCY and STRAKE_WEB_WORKERS, or set DATABASE_URL (PostgreSQL) and REDIS_URL."
        )


def check_configuration() -> None:
    """Run the system checks. Raises `ImproperlyConfigured` with all errors in one line, for a service manager's log.

    The proxy half runs Strake's own checks only: Django's check its pages. Those of routes load the API, and no
    configuration changes their result.
    """
    check_numbers()
    tags = {"strake"} if settings.STRAKE_PROCESS == "proxy" else registry.registry.tags_available() - {"urls"}
    messages = run_checks(tags=list(tags))
    if errors := [message for message in messages if message.is_serious()]:
        raise ImproperlyConfigured(" ".join(map(_one_line, errors)))
    if settings.STRAKE_PROCESS == "proxy":
        for message in messages:
            logger.warning("%s", _one_line(message))  # such as a keyring that opens nothing


def _one_line(message: CheckMessage) -> str:
    return " ".join(filter(None, (f"({message.id})", message.msg, message.hint)))


def prepare_database(wait_seconds: float = 0) -> None:
    """Migrate the embedded database. Any other is migrated by its operator, for whom this waits. Raises `StartupError`.

    The database may be newer than this code: the migrations of a version work with the version before.
    """
    try:
        connection.ensure_connection()
        if settings.STRAKE_EMBEDDED and settings.STRAKE_PROCESS != "web":
            call_command("migrate", verbosity=0, interactive=False)
        is_up_to_date = _is_migrated(wait_seconds)
    except DatabaseError as error:
        reason = database_errors.reason(error)
        name = "The database" if settings.DATABASE_URL else str(settings.STRAKE_HOME.database)
        advice = database_errors.advice(reason)
        exit_code = database_errors.exit_code(reason)
        raise StartupError(f"{name} cannot be used: {reason}. {advice}", exit_code=exit_code) from None
    if not is_up_to_date:
        raise StartupError(
            "The database is not up to date. Run: manage.py migrate. A server waits for that if it is started with "
            "--wait-for-migrations.",
            exit_code=os.EX_TEMPFAIL if wait_seconds else os.EX_CONFIG,
        )


def _is_migrated(wait_seconds: float) -> bool:
    """Return whether the database has every migration of this code, after `wait_seconds` at most."""
    from django.db.migrations.executor import MigrationExecutor
    from django.db.migrations.recorder import MigrationRecorder

    loader = MigrationExecutor(connection).loader
    needed, applied = set(loader.disk_migrations), set(loader.applied_migrations)
    end = time.monotonic() + wait_seconds
    if needed - applied and wait_seconds:
        sys.stderr.write(f"Waiting for manage.py migrate, for {wait_seconds:g} seconds at most.\n")
    while needed - applied and time.monotonic() < end:
        connection.close()  # so that nobody waits for it, and a server that comes back is found
        time.sleep(_LOOK_SECONDS)
        applied = set(MigrationRecorder(connection).applied_migrations())
    return not needed - applied


def confine(home: DataDir) -> None:
    """Take the rest of the file system from the web half, if this system can (Linux 5.13 and later).

    It keeps its code, its database, its socket, and what any program needs. Above all it loses the folder of the master
    keys, and access to the memory of every other process. Raises `ImproperlyConfigured` if it still reads that folder.
    """
    # Not the system's folder for temporary files, which everybody uses, and in which somebody's data folder may lie.
    tempfile.tempdir = str(settings.STRAKE_WEB_SOCKET.parent)
    certificates = [Path(value) for name, value in settings.DATABASES["default"]["OPTIONS"].items() if name in FILES]
    readable = [*landlock.code_paths(), *certificates, Path.home() / ".postgresql"]
    writable = [home.data, settings.STRAKE_WEB_SOCKET.parent, *landlock.DEVICES]
    if not landlock.restrict(readable=readable, writable=writable):
        sys.stderr.write(
            "The web half is not confined: this system has no Landlock (Linux 5.13 or later). Run both halves as two "
            "users, as docs/operations.md shows.\n"
        )
    elif _opens(home.master_keys):
        raise ImproperlyConfigured(
            f"The web half can read {home.master_keys}. Move STRAKE_HOME out of the folders that hold programs "
            "and settings of the system."
        )


def _opens(path: Path) -> bool:
    try:
        path.open("rb").close()
    except OSError:
        return False
    return True
