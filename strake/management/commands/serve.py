"""`manage.py serve`: run Strake."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from django.conf import settings
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from gunicorn.app.base import BaseApplication

from accounts.models import User
from strake import gunicorn_config
from strake.hardening import harden


class Command(BaseCommand):
    help = (
        "Serve Strake on PORT. In the embedded default (STRAKE_BASE_URL on loopback) the database is migrated first, "
        "the demo provider is started, and a one-time sign-in link is printed."
    )

    requires_system_checks = ()  # `handle` runs them, and reports in one line what would be ten for a service manager

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-link", action="store_true", help="print no sign-in link")
        parser.add_argument(
            "--email", default="me@localhost.localdomain", help="whom the printed link signs in (%(default)s)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        harden()
        _claim_port()
        _refuse_mistakes()
        _prepare_database()
        if not settings.STRAKE_EMBEDDED:
            Server().run()
            return
        with DemoProvider(settings.STRAKE_DEMO_PORT) as demo:
            if not demo.started:
                self.stderr.write(
                    f"The demo provider is not running: port {settings.STRAKE_DEMO_PORT} is taken. "
                    f"Delete {settings.STRAKE_HOME.demo_port} to choose another; demo endpoints must then be made anew."
                )
            self.stdout.write(f"\n  Strake is running at {settings.STRAKE_BASE_URL}\n")
            if not options["no_link"]:
                self._print_link(options["email"])
            self.stdout.write("  Press Ctrl+C to stop.\n\n")
            self.stdout.flush()
            Server().run()

    def _print_link(self, email: str) -> None:
        first = User.objects.order_by("created_at").first()
        self.stdout.write(
            "  Sign in with this one-time link (for more: manage.py signin_link EMAIL):\n\n    ", ending=""
        )
        call_command("signin_link", first.email if first else email, stdout=self.stdout)
        self.stdout.write("")


class Server(BaseApplication):
    """gunicorn with strake/gunicorn_config.py, and nothing from the command line."""

    def load_config(self) -> None:
        for name in self.cfg.settings:
            if hasattr(gunicorn_config, name):
                self.cfg.set(name, getattr(gunicorn_config, name))

    def load(self) -> Any:
        from strake.asgi import application

        return application


class DemoProvider:
    """The demo provider as a child process, for as long as the context lasts."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.started = False
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if _is_free(self.port):
            self._process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                [sys.executable, "-m", "strake.demo", str(self.port)],
                stdin=subprocess.PIPE,
                cwd=settings.ROOT,
                start_new_session=True,  # Ctrl+C is for the server, which then ends it
            )
            self.started = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(timeout=10)


def _refuse_mistakes() -> None:
    """Run the system checks. Raises `ImproperlyConfigured` with everything that is wrong."""
    mistakes = [message for message in run_checks() if message.is_serious()]
    if mistakes:
        raise ImproperlyConfigured(
            " ".join(" ".join(filter(None, (f"({mistake.id})", mistake.msg, mistake.hint))) for mistake in mistakes)
        )


def _prepare_database() -> None:
    """Migrate the embedded database; anywhere else that is the operator's decision. Raises `CommandError`."""
    try:
        connection.ensure_connection()
        if settings.STRAKE_EMBEDDED:
            call_command("migrate", verbosity=0, interactive=False)
        loader = MigrationExecutor(connection).loader
        pending = set(loader.disk_migrations) - set(loader.applied_migrations)
    except DatabaseError as error:
        reason = str(error).strip().partition("\n")[0]
        if settings.DATABASE_URL:
            name, advice = "The database", "Is it running, and is DATABASE_URL right?"
        else:
            name = str(settings.STRAKE_HOME.database)
            is_locked = "locked" in reason
            advice = "Something else is writing to it; try again." if is_locked else "Restore it from your backup."
        raise CommandError(f"{name} cannot be used: {reason}. {advice}", returncode=os.EX_TEMPFAIL) from None
    if pending:
        raise CommandError("The database is not up to date. Run: manage.py migrate", returncode=os.EX_CONFIG)


def _claim_port() -> None:
    """Say clearly that the port is taken, before anything else happens. Raises `CommandError`."""
    host = gunicorn_config.bind[0].rpartition(":")[0].strip("[]")
    if not _is_free(settings.PORT, host):
        raise CommandError(
            f"Port {settings.PORT} is taken, perhaps by another Strake. Stop that one, or choose another port: "
            f"PORT={settings.PORT + 1} make run",
            returncode=errno.EADDRINUSE,
        )


def _is_free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
