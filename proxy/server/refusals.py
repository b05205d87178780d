"""Responses to requests that cannot be parsed, which therefore no application sees."""

from __future__ import annotations

import http
import json
import re

from proxy.errors import BadRequest
from proxy.http.target import describe

_MESSAGES = {
    400: BadRequest.message,
    431: "The request's headers are too large.",
    501: "This transfer coding is not supported.",
    505: "Use HTTP/1.1.",
}
_REQUEST_LINE = re.compile(rb"[A-Z]+ (/[^\r\n]*) HTTP/1\.[01]\r\n")
_NOT_FOR_TARGETS = re.compile(rb"[^!-~]")
_HEAD = (
    b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-strake-error: bad_request\r\n"
    b"x-should-retry: false\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
)


def response(status: int, problem: str = "") -> bytes:
    """Return a response with this status, and with a message for it if no `problem` is given."""
    message = problem or _MESSAGES[status]
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": BadRequest.code}
    body = json.dumps({"error": error}).encode()
    return _HEAD % (status, http.HTTPStatus(status).phrase.encode(), len(body)) + body


def problem(head: bytes) -> str:
    """Return why a head could not be parsed, if it is one of the frequent reasons, or ""."""
    line = _REQUEST_LINE.match(head)
    if line is not None and (found := _NOT_FOR_TARGETS.search(line[1])) is not None:
        return f"The URL contains {describe(found[0])}."
    if b"\r\r\n" in head:
        return (
            "A header ends in a carriage return that does not belong there. Often the key was read from a file with "
            "Windows line endings. Remove the \\r at its end."
        )
    return ""
