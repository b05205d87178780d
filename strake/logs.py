"""Logging: one line per event on standard error, constant text with ids, no request line, no header, no secret."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import ItemsView
from types import TracebackType
from typing import Any

from django.http import HttpRequest
from django.views.debug import SafeExceptionReporterFilter

# Their INFO and DEBUG records hold URLs and headers, and with them keys.
_SILENCED = ("httpx", "httpcore", "aiohttp", "asyncio", "urllib3", "hpack", "uvicorn.access", "gunicorn.access")


def configure(overrides: dict[str, object] | None = None) -> None:
    """Set up logging for commands, servers and tests alike (Django's `LOGGING_CONFIG`)."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"handlers": ["stderr"], "level": "INFO"},
            "loggers": {name: {"level": "WARNING"} for name in _SILENCED}
            # One warning per attempt to reach a database that is down; the request's own error says so once.
            | {"psycopg.pool": {"level": "ERROR"}},
        }
    )
    if overrides:
        logging.config.dictConfig(overrides)


class BlindReporterFilter(SafeExceptionReporterFilter):
    """Error reports without local variables, query strings, bodies, cookies and headers.

    Django's own filter hides by name what looks secret; here nothing is shown, since locals of the forwarding path
    hold keys under ordinary names.
    """

    def get_post_parameters(self, request: HttpRequest | None) -> dict[str, Any]:
        return {}

    def get_traceback_frame_variables(self, request: HttpRequest | None, tb_frame: Any) -> ItemsView[str, Any]:
        return {}.items()

    def get_safe_request_meta(self, request: HttpRequest | None) -> dict[str, Any]:
        if request is None:
            return {}
        return {"REQUEST_METHOD": request.method or ""}

    def get_safe_cookies(self, request: HttpRequest | None) -> dict[str, Any]:
        return {}

    def get_safe_settings(self) -> dict[str, Any]:
        return {}

    def is_active(self, request: HttpRequest | None) -> bool:
        return True


def quiet_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> str:
    """Where something went wrong, without the message, which may quote input."""
    del error
    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{kind.__name__} at {' > '.join(frames[-4:])}"
