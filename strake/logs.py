"""Logging to standard error: one line per event, with constant text and ids, without paths, headers and secrets."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections.abc import Hashable, ItemsView
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter
from gunicorn.glogging import Logger

from accounts.request_ids import request_id
from strake import log_lines
from strake.log_lines import Style

COUNT_SECONDS = 60.0
MAX_KNOWN = 1000


class LineFormatter(logging.Formatter):
    """Formats a record as one line. For an exception it names the type and the source lines.

    It never prints the text of an exception, which may quote input, and it escapes control characters.
    """

    def __init__(self, style: Style = "text") -> None:
        super().__init__()
        self._form = style

    def format(self, record: logging.LogRecord) -> str:
        return log_lines.line(
            self._form,
            at=record.created,
            level=record.levelname,
            name=record.name,
            pid=record.process or os.getpid(),
            message=message_of(record),
            request=_request_of(record),
            error=self.formatException(record.exc_info) if record.exc_info else "",
        )

    def formatException(self, ei: Any) -> str:
        kind, _, trace = ei
        frames = [f"{frame.f_code.co_filename.rpartition('/')[2]}:{line}" for frame, line in traceback.walk_tb(trace)]
        return f"{kind.__name__} at {' > '.join(frames[-8:])}" if kind else ""


def message_of(record: logging.LogRecord) -> str:
    """The text of a record, without the path of a request, which can contain a sign-in link."""
    if not hasattr(record, "status_code") or not record.name.startswith("django."):
        return record.getMessage()
    request = getattr(record, "request", None)
    match = getattr(request, "resolver_match", None)
    method = request.method if isinstance(request, HttpRequest) else None
    view = match.view_name if match else "-"
    return f"response status={record.__dict__['status_code']} method={method or '-'} view={view}"


def _request_of(record: logging.LogRecord) -> str:
    """The id of the request that a record is about: given as `extra`, or that of a failed page."""
    request = getattr(record, "request", None)
    if isinstance(request, HttpRequest) and record.levelno >= logging.ERROR:
        return request_id(request)
    return str(getattr(record, "request_id", ""))


@dataclass
class _Repeated:
    """A kind of record that was written, and how many more there were `until` it may be written again."""

    until: float
    last: logging.LogRecord
    more: int = 0


class CountingHandler(logging.StreamHandler[Any]):
    """Writes one warning or error of a kind at once, and then once a minute how many more there were.

    So neither an outage nor a tenant can fill the log, and no failure goes uncounted. Records are of one kind if they
    have the same logger, level and text. Beyond `MAX_KNOWN` kinds in a minute, those with the same template are one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[Hashable, _Repeated] = {}
        self._timer: threading.Timer | None = None
        self._pid = 0

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            super().emit(record)
            return
        now = time.monotonic()
        key = self._key(record)
        known = self._known.get(key)
        if known is not None and now < known.until:
            known.more, known.last = known.more + 1, record
            self._start_timer()
            return
        if known is not None and known.more:
            self._count(known)
        self._known[key] = _Repeated(now + COUNT_SECONDS, record)
        super().emit(record)

    def close(self) -> None:
        with self.lock or threading.RLock():
            for known in self._known.values():
                if known.more:
                    self._count(known)
            self._known.clear()
        super().close()

    def _key(self, record: logging.LogRecord) -> Hashable:
        try:
            key = (record.name, record.levelno, message_of(record))
        except (TypeError, ValueError, KeyError):
            return record.name, record.levelno, record.msg  # `logging` reports wrong arguments by itself
        if key in self._known or len(self._known) < MAX_KNOWN:
            return key
        now = time.monotonic()
        self._known = {known: found for known, found in self._known.items() if found.more or found.until > now}
        return key if len(self._known) < MAX_KNOWN else (record.name, record.levelno, record.msg)

    def _start_timer(self) -> None:
        if self._timer is not None and self._pid == os.getpid():
            return  # a thread does not survive a fork
        self._pid = os.getpid()
        self._timer = threading.Timer(COUNT_SECONDS, self._report)
        self._timer.daemon = True
        self._timer.start()

    def _report(self) -> None:
        """Write the counts that are due, and go on counting what still happens."""
        with self.lock or threading.RLock():
            self._timer = None
            now = time.monotonic()
            for known in self._known.values():
                if known.more and known.until <= now:
                    self._count(known)
                    known.until = now + COUNT_SECONDS
            if any(known.more for known in self._known.values()):
                self._start_timer()

    def _count(self, known: _Repeated) -> None:
        record = logging.makeLogRecord(known.last.__dict__)
        record.msg, record.args = f"{message_of(known.last)} repeated={known.more} seconds={COUNT_SECONDS:.0f}", ()
        record.exc_info, record.created = None, time.time()
        record.__dict__.pop("status_code", None)  # the message is complete
        known.more = 0
        super().emit(record)


class ServerLogger(Logger):
    """Gives the messages of gunicorn and uvicorn to the handler of all others. uvicorn's worker takes the handlers."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = logging.getLogger().handlers


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
