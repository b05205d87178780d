"""The WSGI application of the web half: Django's pages and the API."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.http.response import HttpResponseBase

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

django.setup(set_prefix=False)  # the import below needs it

from credentials.api.errors import API_PATH
from strake import page_urls


class _Request(WSGIRequest):
    """Leads to the pages without the API, which most people never call: its libraries would take 20 MB."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        super().__init__(environ)
        if not self.path_info.startswith(API_PATH):
            self.urlconf = page_urls  # Django looks here, and else in ROOT_URLCONF


class _Handler(WSGIHandler):
    request_class = _Request


_pages = _Handler()


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    # A reverse proxy terminates TLS. The scheme comes from the configuration, never from a header.
    environ["wsgi.url_scheme"] = settings.STRAKE_BASE.scheme
    response = _pages(environ, start_response)
    if environ["REQUEST_METHOD"] != "HEAD":
        return response
    # Django leaves it to the server to drop the body, and gunicorn would log a warning for each.
    if isinstance(response, HttpResponseBase):
        response.close()
    return []
