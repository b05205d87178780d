#!/usr/bin/env python
"""Strake's command line. `manage.py COMMAND --help` explains each command."""

import os
import sys

# These commands, and --help of any other, read the configuration only and create nothing in the data folder.
READ_ONLY_COMMANDS = {"check", "diffsettings", "help", "makemigrations", "version"}


def main() -> None:
    """Run one command. A mistake in the configuration ends it with one line and exit code 78, without a traceback."""
    os.umask(0o077)  # files that Strake creates are for its own user only
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")
    arguments = sys.argv[1:]
    half = half_to_serve(arguments)
    if half == "both":
        # It only starts and watches two other processes, so it does not load Django.
        from strake.processes.supervisor import Supervisor

        sys.exit(Supervisor(arguments[1:]).run())
    from django.core.exceptions import ImproperlyConfigured
    from django.db import Error as DatabaseError

    try:
        if half:
            os.environ["STRAKE_PROCESS"] = half
        if needs_data_dir(arguments) and half != "web":
            prepare_data_dir(in_child=bool(half))
        from django.core.management import execute_from_command_line

        # Read the settings before Django does: for some commands, Django's own runner swallows ImproperlyConfigured
        # and continues with half a configuration.
        import strake.settings  # noqa: F401
        from strake.processes.hardening import harden

        harden()  # most commands load the keyring, and the system checks before them do
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        from accounts.plain_text import escape_unsafe

        sys.stderr.write(f"strake: {escape_unsafe(str(error))}\n")
        sys.exit(78)  # EX_CONFIG in sysexits.h
    except DatabaseError as error:
        from accounts import database_errors
        from accounts.plain_text import escape_unsafe

        if "--traceback" in arguments or not database_errors.is_of_server(error):
            raise
        reason = database_errors.reason(error)
        sys.stderr.write(f"strake: The database cannot be used: {escape_unsafe(reason)}.\n")
        sys.exit(database_errors.exit_code(reason))


def prepare_data_dir(*, in_child: bool) -> None:
    """Create what is missing in the data folder: for a server in a child, so that no copy of a new master key stays."""
    from credentials.vault import keyring
    from strake import data_dir

    if in_child and os.fork():
        _, status = os.wait()
        if status:
            sys.exit(os.waitstatus_to_exitcode(status))
        return
    data_dir.prepare(keyring.new_document)
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
