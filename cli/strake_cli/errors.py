"""The errors of the command line and its exit codes.

CliError                1    Strake refused, or something else failed
├── NotSignedIn         3    there is no access token, or it is not valid
├── Missing             4    no such endpoint or token
├── Unreachable         5    Strake did not answer
└── CannotRun           126  the program of `strake run` cannot be started, or 127: there is none

Exit code 2 is a mistake on the command line, and 130 an interruption. `strake run` ends with the code of its program.
"""

from __future__ import annotations


class CliError(Exception):
    """Base class. `str(error)` says what happened and what to do. It contains no secret."""

    exit_code = 1

    def __init__(self, message: str, code: str = "failed") -> None:
        super().__init__(message)
        self.code = code


class NotSignedIn(CliError):
    """There is no access token for this server, or the server does not accept it."""

    exit_code = 3


class Missing(CliError):
    """There is no such endpoint or token."""

    exit_code = 4


class Unreachable(CliError):
    """The server did not answer, or not as Strake does."""

    exit_code = 5


class CannotRun(CliError):
    """A program cannot be started."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, "cannot_run")
        self.exit_code = exit_code
