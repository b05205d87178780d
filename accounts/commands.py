"""The base class of Strake's commands: who acts, and safe output."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import users
from accounts.actors import Operator
from accounts.errors import AccountsError
from accounts.plain_text import escape_unsafe


class OperatorCommand(BaseCommand):
    """A command of `manage.py`. It prints with `print` and `print_json` only, never to `stdout` itself.

    Labels and email addresses come from other people. Printed as they are, a control character in one could rewrite
    what the operator sees on the terminal.
    """

    @property
    def actor(self) -> Operator:
        """The operator, as the audit log names them: the command, and the user and the host that it runs on."""
        name = type(self).__module__.rpartition(".")[2]
        return Operator(f"command {name}, {_user_name()} on {socket.gethostname()}")

    def print(self, *lines: str, style: Callable[[str], str] | None = None) -> None:
        """Print lines. Unsafe characters in them, also line breaks, are escaped."""
        for line in lines:
            self.stdout.write(_printable(line, self.stdout), style)

    def print_json(self, values: Mapping[str, Any]) -> None:
        """Print one JSON object on one line. JSON escapes what is unsafe."""
        self.print(json.dumps(values))

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except CommandError as error:
            # A subclass, such as the one for failed system checks, has several lines.
            if type(error) is not CommandError:
                raise
            raise CommandError(_printable(str(error), self.stderr), returncode=error.returncode) from None


def email_or_local(email: str | None) -> str:
    """Return the email address that a command was given, or on loopback that of the person at this machine.

    Otherwise a command with another address would make a second account there, which nobody is signed in to.
    """
    if email is not None:
        return email
    if not settings.STRAKE_LOOPBACK:
        raise CommandError("Name the person: this is needed unless STRAKE_BASE_URL is a loopback address.")
    local = users.of_this_machine()
    return local.email if local else users.LOCAL_EMAIL


def duration(text: str) -> timedelta:
    """The type of an option that takes seconds, or a number with a unit: 90s, 30m, 8h, 30d. At most ten years."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    seconds = int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else 0
    if not 1 <= seconds <= 3650 * 86400:
        raise ArgumentTypeError("write a time like 90s, 30m, 8h or 30d, at most 3650d")
    return timedelta(seconds=seconds)


class PersonCommand(OperatorCommand):
    """A command about one person. Subclasses implement `act(user, **options)`, which may raise `AccountsError`."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, email: str, **options: Any) -> None:
        try:
            self.act(users.find(email), **options)
        except AccountsError as error:
            raise CommandError(str(error)) from None

    def act(self, *args: Any, **options: Any) -> None:
        raise NotImplementedError


def _printable(line: str, stream: Any) -> str:
    """Escape what is unsafe, and what the stream's encoding cannot express."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return escape_unsafe(line).encode(encoding, "backslashreplace").decode(encoding)


def _user_name() -> str:
    """The user who logged in, also before sudo, or if there is no terminal, the user of this process."""
    with suppress(OSError):
        return os.getlogin()
    with suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    return str(os.getuid())
