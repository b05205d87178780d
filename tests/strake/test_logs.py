"""Logs and error reports: constant text and places, never what an exception quotes or a variable holds."""

from __future__ import annotations

import logging
import sys

import pytest
from django.conf import settings
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils.log import log_response
from django.views.debug import get_exception_reporter_class, get_exception_reporter_filter

from strake.logs import BlindReporter, LineFormatter

SECRET = "sk-live-do-not-print"


def failure() -> logging.LogRecord:
    try:
        raise ValueError(f"bad header: {SECRET}")
    except ValueError:
        return logging.LogRecord("x", logging.ERROR, "f", 1, "forwarding_failed", (), sys.exc_info())


def test_an_exception_is_one_line_that_says_which_and_where_but_not_its_text():
    line = LineFormatter().format(failure())
    assert SECRET not in line
    assert "\n" not in line
    assert "ERROR x forwarding_failed | ValueError at test_logs.py:" in line


def test_a_line_break_in_a_message_does_not_start_a_line_of_the_log():
    record = logging.LogRecord("x", logging.INFO, "f", 1, "name=%s", ("a\nERROR forged",), None)
    assert "\n" not in LineFormatter().format(record)


def test_the_process_logs_through_this_formatter_only():
    formatters = [
        handler.formatter
        for logger in (logging.getLogger(), logging.getLogger("django"), logging.getLogger("django.server"))
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in {sys.stderr, sys.__stderr__}
    ]
    assert settings.LOGGING["root"] == {"handlers": ["stderr"], "level": "INFO"}
    assert all(isinstance(formatter, LineFormatter) for formatter in formatters)


@pytest.mark.parametrize("name", ["httpx", "httpcore", "aiohttp", "asyncio", "urllib3", "uvicorn.access"])
def test_libraries_that_log_urls_and_headers_are_quiet(name: str):
    assert not logging.getLogger(name).isEnabledFor(logging.INFO)


def test_error_reports_hold_no_variable_header_cookie_body_or_setting():
    request = RequestFactory().post(
        f"/?key={SECRET}", {"api_key": SECRET}, headers={"authorization": SECRET, "cookie": f"a={SECRET}"}
    )
    reporter = get_exception_reporter_filter(request)
    key = SECRET
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


def test_a_trace_that_another_handler_wrote_out_does_not_come_back():
    record = failure()
    logging.Formatter().format(record)
    assert SECRET in record.exc_text
    assert SECRET not in LineFormatter().format(record)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 500])
def test_a_refused_request_is_logged_without_its_path(status: int, caplog: pytest.LogCaptureFixture):
    request = RequestFactory().get(f"/signin/link/{SECRET}/?token={SECRET}")
    with caplog.at_level(logging.INFO):
        log_response("Not Found: %s", request.path, response=HttpResponse(status=status), request=request)
    (record,) = caplog.records
    line = LineFormatter().format(record)
    assert SECRET not in line
    assert f"answered status={status} method=GET view=-" in line


def test_an_error_report_names_places_and_nothing_else():
    request = RequestFactory().get(f"/{SECRET}/?key={SECRET}", headers={"authorization": SECRET})
    own_variable = f"local {SECRET}"
    try:
        raise ValueError(own_variable)
    except ValueError:
        reporter = get_exception_reporter_class(request)(request, *sys.exc_info())
    for report in (reporter.get_traceback_text(), reporter.get_traceback_html()):
        assert "ValueError" in report
        assert "test_logs.py" in report
        assert SECRET not in report
    assert isinstance(reporter, BlindReporter)
