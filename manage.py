#!/usr/bin/env python
"""Strake's command line. `manage.py COMMAND --help` explains each command."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

OWN_PACKAGES = {"accounts", "credentials", "proxy", "strake"}
# These commands, and --help of any other, read the configuration only and create nothing in the data folder.
READ_ONLY_COMMANDS = {"check", "diffsettings", "help", "makemigrations", "version"}


def main() -> None:
    """Run one command. A mistake in the configuration ends it with one line and exit code 78, without a traceback."""
    os.umask(0o077)  # files that Strake creates are for its own user only
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as for standard error: no text fails in any locale
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")
    arguments = sys.argv[1:]
    half = half_to_serve(arguments)
    if half == "both":
        # It only starts and watches two other processes, so it does not load Django.
        from strake.processes.supervisor import Supervisor

        sys.exit(Supervisor(arguments[1:]).run())
    try:
        run(arguments, half)
    except ModuleNotFoundError as error:
        if error.name in OWN_PACKAGES:
            raise
        # For example after an upgrade of the system's Python.
        sys.stderr.write(
            f"strake: The package {error.name} is missing from .venv. Run: make clean, and then make run\n"
        )
        sys.exit(78)


def run(arguments: list[str], half: str) -> None:
    """Run one command, or a half of the server."""
    from django.core.exceptions import ImproperlyConfigured

    try:
        if half:
            os.environ["STRAKE_PROCESS"] = half
        if needs_data_dir(arguments) and half != "web":
            prepare_data_dir(in_child=bool(half), init=arguments[0] == "serve" and "--init" in arguments)
        from django.core.management import execute_from_command_line

        # Read the settings before Django does: for some commands, Django's own runner swallows ImproperlyConfigured
        # and continues with half a configuration.
        import strake.settings  # noqa: F401
        from strake.processes.hardening import harden

        harden()  # most commands load the keyring, and the system checks before them do
        with database_errors_explained(arguments):
            execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        fail(str(error), 78)  # EX_CONFIG in sysexits.h


def fail(message: str, exit_code: int) -> None:
    """End with one line on standard error."""
    from accounts.plain_text import escape_unsafe

    sys.stderr.write(f"strake: {escape_unsafe(message)}\n")
    sys.exit(exit_code)


@contextmanager
def database_errors_explained(arguments: list[str]) -> Iterator[None]:
    """End with the database's own reason if it cannot be used, unless a traceback is asked for."""
    from django.db import Error as DatabaseError

    try:
        yield
    except DatabaseError as error:
        from accounts import database_errors

        if "--traceback" in arguments or not database_errors.is_of_server(error):
            raise
        reason = database_errors.reason(error)
        fail(
            f"The database cannot be used: {reason}. {database_errors.advice(reason)}",
            database_errors.exit_code(reason),
        )


def prepare_data_dir(*, in_child: bool, init: bool) -> None:
    """Create what is missing in the data folder: for a server in a child, so that no copy of a new master key stays."""
    from credentials.vault import keyring
    from strake import data_dir

    if in_child and os.fork():
        _, status = os.wait()
        if status:
            sys.exit(os.waitstatus_to_exitcode(status))
        return
    data_dir.prepare(keyring.new_document, init=init)
    if in_child:
        os._exit(0)


def needs_data_dir(arguments: list[str]) -> bool:
    """Return whether a command line reads or writes the data folder."""
    return not is_help(arguments) and arguments[0] not in READ_ONLY_COMMANDS


def half_to_serve(arguments: list[str]) -> str:
    """Return "both", "proxy" or "web" for `serve`, by its `--only`, or "" for any other command."""
    if is_help(arguments) or arguments[0] != "serve":
        return ""
    if not any(argument.startswith("--o") for argument in arguments):
        return "both"  # without argparse, whose memory the supervisor would keep
    from argparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--only", choices=("proxy", "web"), default="both")
    try:
        return str(parser.parse_known_args(arguments[1:])[0].only)
    except ArgumentError:
        return ""  # the command itself reports it


def is_help(arguments: list[str]) -> bool:
    return not arguments or arguments[0].startswith("-") or not {"-h", "--help"}.isdisjoint(arguments)


if __name__ == "__main__":
    main()
