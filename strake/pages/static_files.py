"""Static files: served compressed, under URLs that contain a hash of the content, so that browsers cache them forever.

`collectstatic` is not needed. Each process reads and hashes the few files once.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path
from posixpath import splitext

from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import StaticFilesStorage
from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.responders import StaticFile

COMPRESSED_TYPES = ("text/", "application/javascript", "image/svg+xml")
MIN_COMPRESSED_BYTES = 500


class HashedStorage(StaticFilesStorage):
    """Adds 12 digits of the SHA-256 to the name: `strake/strake.css` becomes `strake/strake.0123456789ab.css`.

    WhiteNoise recognises such names and sends `immutable` with these files.
    """

    def url(self, name: str | None) -> str:
        return super().url(hashed_name(name or ""))


@cache
def hashed_name(name: str) -> str:
    """The name with the hash of the content in it, or `name` if there is no such file."""
    path = finders.find(name)
    if not path:
        return name
    stem, extension = splitext(name)
    return f"{stem}.{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]}{extension}"


@cache
def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


class StaticFiles(WhiteNoiseMiddleware):  # type: ignore[misc]
    """WhiteNoise with hashed names, and with each file as one response body.

    Under ASGI, Django would read WhiteNoise's file iterator into memory anyway, and warn about it for each file.
    """

    def add_files_from_finders(self) -> None:
        super().add_files_from_finders()
        for url in list(self.files):
            name = url.removeprefix(self.static_prefix)
            path = finders.find(name)
            if path:
                self.add_file_to_dictionary(self.static_prefix + hashed_name(name), path)

    @staticmethod
    def serve(static_file: StaticFile, request: HttpRequest) -> HttpResponse:
        found = static_file.get_response(request.method, request.META)
        content = b""
        if found.file is not None:
            with found.file as file:
                content = file.read()
        response = HttpResponse(content, status=int(found.status), headers=dict(found.headers))
        if response.headers.get("Content-Type", "").startswith(COMPRESSED_TYPES):
            patch_vary_headers(response, ["Accept-Encoding"])
            accepts_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
            if accepts_gzip and response.status_code == 200 and len(content) >= MIN_COMPRESSED_BYTES:
                response.content = _compressed(content)
                response.headers["Content-Encoding"] = "gzip"
                response.headers["Content-Length"] = str(len(response.content))
        return response
