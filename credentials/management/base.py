"""What the commands that change the keyring have in common: where they read it, and where they write it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.core.management.base import CommandError

from accounts.commands import OperatorCommand
from credentials.errors import KeyringError
from credentials.vault import key_holders, keyring_file, master_keys
from credentials.vault.master_keys import KeyringPlace
from credentials.vault.models import ServerProcess


def add_wait_arguments(parser: ArgumentParser) -> None:
    """Add the options of a command that waits until every server has loaded the keyring."""
    parser.add_argument(
        "--wait",
        type=float,
        default=key_holders.default_wait_seconds(),
        metavar="SECONDS",
        help="how long to wait for servers to load the keyring (default: %(default)g)",
    )
    parser.add_argument("--no-server", action="store_true", help="go on if no running server is seen")


def say_waiting(command: OperatorCommand) -> key_holders.OnWait:
    """Return what prints the servers that a command waits for."""

    def say(behind: list[ServerProcess]) -> None:
        command.print(f"Waiting for these servers to load the changed keyring: {key_holders.names(behind)}.")
        command.stdout.flush()

    return say


class KeyringCommand(OperatorCommand):
    """A command that changes the keyring: the file, or with `--output` a copy for whatever the keyring comes from."""

    def add_place_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--output",
            metavar="PATH",
            help="leave the present keyring as it is, and write the changed one to this new file, or with - to "
            "standard output, for a mounted Secret or whatever STRAKE_MASTER_KEYS_COMMAND reads",
        )

    def place(self, output: str | None, file: str | None = None) -> KeyringPlace:
        """The place that the options name. With `--output -`, messages go to standard error from then on."""
        if output:
            configured = file or settings.STRAKE_MASTER_KEYS_FILE
            return KeyringPlace(Path(configured) if configured else None, self._writer(output))
        try:
            return KeyringPlace(master_keys.file_to_change(file))
        except KeyringError as error:
            raise CommandError(str(error)) from None

    def _writer(self, output: str) -> Callable[[str], None]:
        if output != "-":
            return lambda document: keyring_file.write_new(document, Path(output))
        if sys.stdout.isatty():
            raise CommandError("The keyring is not shown on a terminal. Send it to a program or a file.")
        stdout, self.stdout = self.stdout, self.stderr

        def write(document: str) -> None:
            stdout.write(document)
            stdout.flush()

        return write
