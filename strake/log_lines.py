"""The form of a line in the log: text, or one JSON object with STRAKE_LOG=json.

The supervisor uses this too and does not load Django, so this imports little.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal

from accounts.plain_text import escape_unsafe

Style = Literal["text", "json"]
HOST = socket.gethostname()


def configuration(style: str) -> dict[str, Any]:
    """Return what LOGGING is in Django's settings."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": "strake.logs.LineFormatter", "style": style}},
        "handlers": {"stderr": {"class": "strake.logs.CountingHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "INFO"},
        "loggers": {
            # Django's default handlers would print each record again, with the text of exceptions.
            "django": {"handlers": [], "level": "INFO", "propagate": True},
            # It warns at every attempt to reach a database that is down. The error of the request is enough.
            "psycopg.pool": {"level": "ERROR"},
            # Their INFO and DEBUG records contain URLs and headers, and therefore keys.
            **{
                name: {"level": "WARNING"}
                for name in ("httpx", "httpcore", "asyncio", "urllib3", "uvicorn.access", "gunicorn.access")
            },
        },
    }


def line(
    style: Style, *, at: float, level: str, name: str, pid: int, message: str, request: str = "", error: str = ""
) -> str:
    """Return one line, without unsafe characters. `error` is the exception's type and source lines."""
    if style == "json":
        import json  # the supervisor would keep its memory

        found = {
            "at": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03}Z",
            "level": level,
            "logger": name,
            "message": message,
            "host": HOST,
            "pid": pid,
            **({"request": request} if request else {}),
            **({"error": error} if error else {}),
        }
        return json.dumps(found)
    when = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))},{int(at % 1 * 1000):03}"
    where = f"{HOST}[{pid}] {request}".rstrip()
    text = f"{message} | {error}" if error else message
    return escape_unsafe(f"{when} {where} {level} {name} {text}".replace("\n", " | "))


def say(message: str, *, name: str, environment: Mapping[str, str]) -> None:
    """Write a warning to standard error, in a process that does not use `logging`."""
    style: Style = "json" if environment.get("STRAKE_LOG", "").strip() == "json" else "text"
    text = line(style, at=time.time(), level="WARNING", name=name, pid=os.getpid(), message=message)
    sys.stderr.write(f"{text}\n")
