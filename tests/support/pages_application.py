"""A WSGI application for gunicorn: one page for every kind of response that the relay passes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    return PAGES[environ["PATH_INFO"]](environ, start_response)


def echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The request as Django would see it."""
    seen: dict[str, Any] = {name: value for name, value in environ.items() if isinstance(value, str)}
    seen["body_size"] = len(environ["wsgi.input"].read())
    seen["pid"] = os.getpid()
    body = json.dumps(seen).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def ignore_body(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("400 Bad Request", [("Content-Length", "7")])
    return [b"ignored"]


def not_modified(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("304 Not Modified", [("ETag", '"a"')])
    return []


def no_content(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("204 No Content", [])
    return []


def stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """Three lines without a length. The query may name a folder: each line waits for a file there, named by number."""
    start_response("200 OK", [("Content-Type", "text/csv")])
    for number in range(3):
        folder, end = environ["QUERY_STRING"], time.monotonic() + 60
        while folder and not os.path.exists(f"{folder}/{number}") and time.monotonic() < end:
            time.sleep(0.005)
        yield b"line %d\n" % number


def cut_short(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    headers = [("Content-Length", "1000")] if environ["QUERY_STRING"] else []
    start_response("200 OK", headers)
    yield b"the beginning"
    raise ValueError


PAGES = {
    "/echo": echo,
    "/ignore-body": ignore_body,
    "/not-modified": not_modified,
    "/no-content": no_content,
    "/stream": stream,
    "/cut-short": cut_short,
}
