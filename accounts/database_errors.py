"""Why the database cannot be used: in the server's own words, on one line."""

from __future__ import annotations

import os

from django.db import Error, OperationalError, connection

MAX_LENGTH = 400
_NOT_PREPARED = {"42P01", "42501"}  # undefined_table, insufficient_privilege
# What a server says if waiting does not help. It says so before the session has an SQLSTATE.
_WRONG = (
    "does not exist",
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "certificate verify failed",
)


def reason(error: BaseException) -> str:
    """The server's own reason. The pool of connections only says that it has waited, so this asks once without it."""
    if type(error.__cause__).__name__ == "PoolTimeout":
        error = _ask_without_pool() or error
    text = " ".join(str(error).split()).removesuffix(".")
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}…"


def is_of_server(error: Error) -> bool:
    """True if the database cannot be reached, or lacks tables or rights. Any other error is a defect of the program."""
    return isinstance(error, OperationalError) or getattr(error.__cause__, "sqlstate", "") in _NOT_PREPARED


def exit_code(reason: str) -> int:
    """The exit code of sysexits.h for a service manager: EX_CONFIG if trying again would not help, else EX_TEMPFAIL."""
    return os.EX_CONFIG if any(text in reason for text in _WRONG) else os.EX_TEMPFAIL


def advice(reason: str) -> str:
    """What an operator can do about it."""
    if "permission denied for " in reason:
        return "Give this role its rights, as the owner of the tables: manage.py grant_roles --web ROLE --proxy ROLE"
    if "no such table" in reason or "relation" in reason:
        return "Run: manage.py migrate"
    if connection.vendor == "postgresql":
        return "Is it running, and is DATABASE_URL right?"
    return "Another process is writing to it. Try again." if "locked" in reason else "Restore it from your backup."


def _ask_without_pool() -> Error | None:
    alone = connection.copy()
    alone.settings_dict["OPTIONS"].pop("pool", None)
    try:
        alone.ensure_connection()  # unlike connect, it raises errors of Django
    except Error as error:
        return error
    alone.close()
    return None
