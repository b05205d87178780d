"""Logs and error reports contain constant text and source lines, never the text of exceptions or values."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils.log import log_response
from django.views.debug import get_exception_reporter_class, get_exception_reporter_filter

from accounts.request_ids import request_id
from strake import logs
from strake.log_lines import HOST, say
from strake.logs import BlindReporter, BlindReporterFilter, CountingHandler, LineFormatter
from tests.support.upstream import eventually

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


def test_line_names_host_process_and_request() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "done", (), None)
    assert f" {HOST}[{os.getpid()}] INFO x done" in LineFormatter().format(record)
    record.request_id = "req_1"
    assert f" {HOST}[{os.getpid()}] req_1 INFO x done" in LineFormatter().format(record)


def test_json_is_one_object_a_line() -> None:
    record = failure()
    record.request_id = "req_1"
    line = LineFormatter("json").format(record)
    found = json.loads(line)
    assert found.pop("at").endswith("Z")
    assert found.pop("error").startswith("ValueError at test_logs.py:")
    assert found == {
        "level": "ERROR",
        "logger": "x",
        "message": "forwarding_failed",
        "host": HOST,
        "pid": os.getpid(),
        "request": "req_1",
    }
    assert SECRET not in line


def test_supervisor_writes_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    say("A child ended.", name="supervisor", environment={})
    say("A child\nended.", name="supervisor", environment={"STRAKE_LOG": "json"})
    text, line = capsys.readouterr().err.splitlines()
    assert text.endswith(f" {HOST}[{os.getpid()}] WARNING supervisor A child ended.")
    assert json.loads(line)["message"] == "A child\nended."


def test_failed_page_has_the_id_of_its_log_line(caplog: pytest.LogCaptureFixture) -> None:
    request = RequestFactory().get("/")
    log_response("%s", request.path, response=HttpResponse(status=500), request=request)
    (record,) = caplog.records
    assert f" {request_id(request)} ERROR django.request response status=500" in LineFormatter().format(record)


# --- Counting --------------------------------------------------------------------------------------------------------


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingHandler]:
    """A handler that writes to a buffer. Nothing is due by itself."""
    handler = CountingHandler()
    handler.setFormatter(LineFormatter())
    handler.setStream(StringIO())
    yield handler
    if handler._timer is not None:
        handler._timer.cancel()
    handler.close()


def emit(handler: CountingHandler, message: str, *arguments: object, level: int = logging.WARNING) -> None:
    handler.handle(logging.LogRecord("x", level, "f", 1, message, arguments, None))


def written(handler: CountingHandler) -> list[str]:
    return [line.partition(" x ")[2] for line in handler.stream.getvalue().splitlines()]


def test_repetitions_are_counted(counting: CountingHandler) -> None:
    for number in range(50):
        emit(counting, "redis_unavailable kind=%s", "TimeoutError")
        emit(counting, "redis_back")
        emit(counting, "other number=%d", number % 2)
    assert written(counting) == [
        "redis_unavailable kind=TimeoutError",
        "redis_back",
        "other number=0",
        "other number=1",
    ]
    for known in counting._known.values():
        known.until = time.monotonic()
    counting._report()
    assert written(counting)[4:] == [
        "redis_unavailable kind=TimeoutError repeated=49 seconds=60",
        "redis_back repeated=49 seconds=60",
        "other number=0 repeated=24 seconds=60",
        "other number=1 repeated=24 seconds=60",
    ]


def test_count_comes_by_itself(counting: CountingHandler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "COUNT_SECONDS", 0.05)
    for _ in range(3):
        emit(counting, "heartbeat_failed")
    eventually(lambda: written(counting) == ["heartbeat_failed", "heartbeat_failed repeated=2 seconds=0"])


def test_failure_after_a_quiet_minute_is_written_at_once(counting: CountingHandler) -> None:
    emit(counting, "a")
    emit(counting, "a")
    for known in counting._known.values():
        known.until = 0
    emit(counting, "a")
    assert written(counting) == ["a", "a repeated=1 seconds=60", "a"]


def test_information_is_never_counted(counting: CountingHandler) -> None:
    for _ in range(3):
        emit(counting, "start half=proxy", level=logging.INFO)
    assert len(written(counting)) == 3


def test_number_of_kinds_is_bounded(counting: CountingHandler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a tenant with many endpoints could fill the log."""
    monkeypatch.setattr(logs, "MAX_KNOWN", 3)
    for number in range(10):
        emit(counting, "upstream_failed endpoint=%d", number)
    assert len(written(counting)) == 4
    assert len(counting._known) == 4
    counting.close()
    assert written(counting)[4:] == ["upstream_failed endpoint=9 repeated=6 seconds=60"]


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
