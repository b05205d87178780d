"""`manage.py serve`: run Strake."""

from __future__ import annotations

import argparse
import os
import socket
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from accounts import users
from accounts.commands import OperatorCommand
from accounts.errors import AccountsError
from accounts.sign_in import magic_links
from strake.processes import serve
from strake.processes.hardening import harden
from strake.processes.runtime import Half

if TYPE_CHECKING:
    from strake.processes.gunicorn_server import GunicornServer


class Command(OperatorCommand):
    help = (
        "Serve Strake: the proxy half, which forwards and holds the master keys, and the web half, which serves pages "
        "and the API without any key. If the database is in STRAKE_HOME, this migrates it first. On loopback it also "
        "starts the demo provider and prints a one-time sign-in link."
    )

    requires_system_checks = ()  # `check_configuration` runs them and reports all errors in one line

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--only", choices=("proxy", "web"), help="serve one half, for two service units")
        parser.add_argument(
            "--init",
            action="store_true",
            help="create a vault in STRAKE_HOME if there is none: for the first start with a public STRAKE_BASE_URL",
        )
        parser.add_argument("--no-link", action="store_true", help="print no sign-in link")
        parser.add_argument(
            "--email", default=users.LOCAL_EMAIL, help="who signs in with the printed link (%(default)s)"
        )
        parser.add_argument(
            "--wait-for-migrations",
            metavar="SECONDS",
            type=int,
            nargs="?",
            const=600,
            default=0,
            help="do not start before `manage.py migrate` has run, and wait for it (%(const)s seconds), instead of "
            "ending with exit code 78",
        )
        parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)  # where to report to the supervisor

    def handle(self, *args: Any, **options: Any) -> None:
        # manage.py starts the supervisor if there is no --only.
        half: Half = "web" if settings.STRAKE_PROCESS == "web" else "proxy"
        harden()
        try:
            listeners = serve.open_listeners(half)
            metrics_listeners = serve.open_metrics_listeners(half)
        except serve.StartupError as error:
            raise CommandError(str(error), returncode=error.exit_code) from None
        if half == "web":
            serve.confine(settings.STRAKE_HOME)  # before it starts threads
        with serve.in_child(lambda: self._prepare(half, options)):
            if options["ready_fd"] is not None:
                os.close(options["ready_fd"])
            server = _server(half, listeners, metrics_listeners)
            server.wsgi()  # load the application meanwhile
        server.run()

    def _prepare(self, half: Half, options: dict[str, Any]) -> None:
        """Check and prepare everything, and tell the supervisor."""
        try:
            serve.check_configuration()
            serve.prepare_database(options["wait_for_migrations"])
        except serve.StartupError as error:
            raise CommandError(str(error), returncode=error.exit_code) from None
        if options["ready_fd"] is not None:
            with os.fdopen(options["ready_fd"], "w") as report:
                report.write(str(settings.STRAKE_DEMO_PORT))
        if settings.STRAKE_LOOPBACK and half == "proxy":
            self._print_address(None if options["no_link"] else options["email"])
        elif options["init"] and half == "proxy":
            self.print(
                "",
                f"  Strake serves {settings.STRAKE_BASE_URL} once a reverse proxy passes it on.",
                f"  Back up {settings.STRAKE_MASTER_KEYS_FILE or 'the master keys'} now, apart from the database.",
                "  For a sign-in link, run: manage.py signin_link YOUR-EMAIL --staff",
                "",
            )
            self.stdout.flush()

    def _print_address(self, email: str | None) -> None:
        """Print where Strake is, with a sign-in link for the first account, or for `email` if there is none."""
        self.print("", f"  Strake is running at {settings.STRAKE_BASE_URL}")
        if email is not None:
            first = users.of_this_machine()
            self._print_link(first.email if first else email)
        self.print("  Press Ctrl+C to stop.", "", "")
        self.stdout.flush()

    def _print_link(self, email: str) -> None:
        try:
            link = magic_links.operator_link(email=email, actor=self.actor)
        except AccountsError as error:
            self.print(f"  There is no sign-in link: {error}", "")
            return
        self.print(
            "  Sign in with this one-time link (for another: manage.py signin_link EMAIL):", "", f"    {link}", ""
        )


def _server(half: Half, listeners: list[socket.socket], metrics_listeners: list[socket.socket]) -> GunicornServer:
    if half == "web":
        from strake.processes.web_server import WebServer

        return WebServer(listeners)
    from strake.processes.proxy_server import ProxyServer

    return ProxyServer(listeners, metrics_listeners)
