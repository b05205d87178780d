#!/usr/bin/env python
"""Strake's command line: `manage.py COMMAND --help` explains each command."""

import os
import sys


def main() -> None:
    """Run one command; a configuration mistake ends with one clear line and exit code 78, never a traceback."""
    os.umask(0o077)  # whatever Strake writes is for its own user only
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        # Read the settings before Django does: its own runner swallows this exception for some commands and
        # goes on with half a configuration.
        import strake.settings  # noqa: F401

        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.stderr.write(f"strake: {error}\n")
        sys.exit(78)  # EX_CONFIG of sysexits.h


if __name__ == "__main__":
    main()
