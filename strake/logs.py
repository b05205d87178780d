"""Logging: one line per event on standard error, constant text with ids, no request line, no header, no secret."""

from __future__ import annotations

import logging
import traceback
from collections.abc import ItemsView
from typing import Any

from django.http import HttpRequest
from django.views.debug import SafeExceptionReporterFilter


class LineFormatter(logging.Formatter):
    """One line per record. Of an exception it says which and where, never its text, which may quote input."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", " | ")

    def formatException(self, ei: Any) -> str:
        kind, _, trace = ei
        frames = [f"{frame.f_code.co_filename.rpartition('/')[2]}:{line}" for frame, line in traceback.walk_tb(trace)]
        return f"{kind.__name__} at {' > '.join(frames[-8:])}" if kind else ""


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
