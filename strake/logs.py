"""Logging to standard error: one line per event, with constant text and ids, without paths, headers and secrets."""

from __future__ import annotations

import logging
import traceback
from collections.abc import ItemsView
from typing import Any

from django.http import HttpRequest
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter
from gunicorn.glogging import Logger

from accounts.plain_text import escape_unsafe


class LineFormatter(logging.Formatter):
    """Formats a record as one line. For an exception it names the type and the source lines.

    It never prints the text of an exception, which may quote input, and it escapes control characters.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record = logging.makeLogRecord(record.__dict__)
        record.exc_text = None  # another handler may have cached the exception's text here
        if hasattr(record, "status_code") and record.name.startswith("django."):
            _drop_path(record)
        return escape_unsafe(super().format(record).replace("\n", " | "))

    def formatException(self, ei: Any) -> str:
        kind, _, trace = ei
        frames = [f"{frame.f_code.co_filename.rpartition('/')[2]}:{line}" for frame, line in traceback.walk_tb(trace)]
        return f"{kind.__name__} at {' > '.join(frames[-8:])}" if kind else ""


def _drop_path(record: logging.LogRecord) -> None:
    """Replace the message: Django's records of failed requests quote the path, which can contain a sign-in link."""
    request = getattr(record, "request", None)
    match = getattr(request, "resolver_match", None)
    method = request.method if isinstance(request, HttpRequest) else None
    record.msg = "response status=%s method=%s view=%s"
    record.args = (record.__dict__["status_code"], method or "-", match.view_name if match else "-")


class ServerLogger(Logger):
    """Formats the messages of gunicorn and uvicorn the same way."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(LineFormatter())


class BlindReporter(ExceptionReporter):
    """Error reports with the exception's type and its stack of source lines, and nothing else.

    Django's own reports also contain the exception's text, source code, the URL with its query, and the settings.
    """

    def get_traceback_text(self) -> SafeString:
        places = "\n".join(
            f"  {frame.f_code.co_filename}:{line} {frame.f_code.co_name}" for frame, line in traceback.walk_tb(self.tb)
        )
        return escape(f"{self.exc_type.__name__ if self.exc_type else 'Error'}\n{places}\n")

    def get_traceback_html(self) -> SafeString:
        return format_html("<pre>{}</pre>", self.get_traceback_text())


class BlindReporterFilter(SafeExceptionReporterFilter):
    """Error reports without local variables, query strings, bodies, cookies and headers.

    Django's own filter hides values whose names look secret. Local variables of the forwarding path hold keys under
    ordinary names, so this filter shows no value at all.
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
