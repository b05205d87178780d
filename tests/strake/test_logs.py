"""Logs and error reports contain constant text and source lines, never the text of exceptions or values."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
from django.conf import settings
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils.log import log_response
from django.views.debug import get_exception_reporter_class, get_exception_reporter_filter

from strake.logs import BlindReporter, BlindReporterFilter, LineFormatter

SECRET = "sk-live-do-not-print"


def failure() -> logging.LogRecord:
    try:
        raise ValueError(f"bad header: {SECRET}")
    except ValueError:
        return logging.LogRecord("x", logging.ERROR, "f", 1, "forwarding_failed", (), sys.exc_info())


def test_exception_is_one_line_without_its_text() -> None:
    line = LineFormatter().format(failure())
    assert SECRET not in line
    assert "\n" not in line
    assert "ERROR x forwarding_failed | ValueError at test_logs.py:" in line


def test_line_break_does_not_start_a_new_log_line() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "name=%s", ("a\nERROR forged",), None)
    assert "\n" not in LineFormatter().format(record)


def test_every_handler_uses_the_line_formatter() -> None:
    formatters = [
        handler.formatter
        for logger in (logging.getLogger(), logging.getLogger("django"), logging.getLogger("django.server"))
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in {sys.stderr, sys.__stderr__}
    ]
    assert settings.LOGGING["root"] == {"handlers": ["stderr"], "level": "INFO"}
    assert all(isinstance(formatter, LineFormatter) for formatter in formatters)


@pytest.mark.parametrize("name", ["httpx", "httpcore", "asyncio", "urllib3", "uvicorn.access"])
def test_libraries_that_log_urls_are_quiet(name: str) -> None:
    assert not logging.getLogger(name).isEnabledFor(logging.INFO)


def test_error_reports_contain_no_values() -> None:
    request = RequestFactory().post(
        f"/?key={SECRET}", {"api_key": SECRET}, headers={"authorization": SECRET, "cookie": f"a={SECRET}"}
    )
    reporter = get_exception_reporter_filter(request)
    assert isinstance(reporter, BlindReporterFilter)
    key = SECRET  # a local variable of the frame below
    shown = [
        reporter.get_post_parameters(request),
        reporter.get_safe_request_meta(request),
        reporter.get_safe_request_meta(None),
        reporter.get_safe_cookies(request),
        reporter.get_safe_settings(),
        list(reporter.get_traceback_frame_variables(request, sys._getframe())),
    ]
    assert key not in repr(shown)
    assert reporter.is_active(request)


def test_cached_exception_text_is_dropped() -> None:
    record = failure()
    logging.Formatter().format(record)
    assert SECRET in (record.exc_text or "")
    assert SECRET not in LineFormatter().format(record)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 500])
def test_refused_request_is_logged_without_its_path(status: int, caplog: pytest.LogCaptureFixture) -> None:
    request = RequestFactory().get(f"/signin/link/{SECRET}/?token={SECRET}")
    with caplog.at_level(logging.INFO):
        log_response("Not Found: %s", request.path, response=HttpResponse(status=status), request=request)
    (record,) = caplog.records
    line = LineFormatter().format(record)
    assert SECRET not in line
    assert f"response status={status} method=GET view=-" in line


def test_error_report_names_only_source_lines() -> None:
    request = RequestFactory().get(f"/{SECRET}/?key={SECRET}", headers={"authorization": SECRET})
    message = f"local {SECRET}"
    try:
        raise ValueError(message)
    except ValueError:
        reporter_class: Any = get_exception_reporter_class(request)
        reporter = reporter_class(request, *sys.exc_info())
    for report in (reporter.get_traceback_text(), reporter.get_traceback_html()):
        assert "ValueError" in report
        assert "test_logs.py" in report
        assert SECRET not in report
    assert isinstance(reporter, BlindReporter)
