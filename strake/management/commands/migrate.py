"""`manage.py migrate`: Django's, made safe for several hosts and a busy database."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import OperationalError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.migration import Migration
from django.db.migrations.state import ProjectState

from accounts.commands import OperatorCommand
from accounts.transactions import lock_key, process_lock

LOCK_SECONDS = 2
MAX_ATTEMPTS = 60
PAUSE_SECONDS = 2.0
LOOK_SECONDS = 1.0
_LOCK_NOT_AVAILABLE, _DEADLOCK_DETECTED = "55P03", "40P01"


class PatientExecutor(MigrationExecutor):
    """Never lets servers wait behind a migration that waits itself.

    A statement that waits for a lock makes everybody wait who comes after it. So on PostgreSQL each migration gives up
    after `LOCK_SECONDS`, which undoes it, and is tried again. Those that are not atomic must do so themselves.
    """

    def apply_migration(
        self, state: ProjectState, migration: Migration, fake: bool = False, fake_initial: bool = False
    ) -> ProjectState:
        if connection.vendor != "postgresql" or not migration.atomic:
            return super().apply_migration(state, migration, fake, fake_initial)
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_SECONDS)
            try:
                with transaction.atomic():
                    with connection.cursor() as cursor:
                        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
                    # A copy, since Django changes the state even if the migration fails.
                    return super().apply_migration(state.clone(), migration, fake, fake_initial)
            except OperationalError as error:
                if getattr(error.__cause__, "sqlstate", "") not in {_LOCK_NOT_AVAILABLE, _DEADLOCK_DETECTED}:
                    raise
        raise CommandError(
            f"{migration} needs a lock that a transaction holds for long (see pg_locks and pg_stat_activity). It has "
            "changed nothing. End that transaction, and run this again."
        )


class Command(OperatorCommand, migrate.Command):
    """One host at a time migrates: another one waits, and then finds nothing to do."""

    def handle(self, *args: Any, **options: Any) -> None:
        vars(migrate)["MigrationExecutor"] = PatientExecutor  # there is no other way to give it to Django's command
        if connection.vendor != "postgresql" or options["plan"] or options["check_unapplied"]:
            super().handle(*args, **options)
            return
        self._is_waiting = False
        with process_lock(lock_key("migrate"), wait=lambda: self._wait(options["verbosity"])):
            super().handle(*args, **options)

    def _wait(self, verbosity: int) -> bool:
        if not self._is_waiting and verbosity:
            self.print("Another host is migrating. Waiting for it.")
            self.stdout.flush()
        self._is_waiting = True
        time.sleep(LOOK_SECONDS)
        return True
