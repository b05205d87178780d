"""Logs and error reports: constant text and places, never what an exception quotes or a variable holds."""

from __future__ import annotations

import logging
import sys

import pytest
from django.conf import settings
from django.test import RequestFactory
from django.views.debug import get_exception_reporter_filter

from strake.logs import LineFormatter

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
