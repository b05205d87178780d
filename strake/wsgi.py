"""The WSGI application of the web half: Django's pages and the API."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http.response import HttpResponseBase

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_pages = get_wsgi_application()


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
