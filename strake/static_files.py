"""Stylesheet, script and icons: under names that change with their content, cached for good, and compressed.

Nothing is collected into a folder beforehand; the few files are read and hashed once per process.
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

COMPRESSED = ("text/", "application/javascript", "image/svg+xml")
LEAST_BYTES = 500


class HashedStorage(StaticFilesStorage):
    """Puts a piece of the content's SHA-256 into the URL: `strake/strake.css` becomes `strake/strake.0123456789ab.css`.

    WhiteNoise sees that and lets browsers keep such a file for good.
    """

    def url(self, name: str | None) -> str:
        return super().url(hashed_name(name or ""))


@cache
def hashed_name(name: str) -> str:
    """The name with the hash of the content in it; unchanged where there is no such file."""
    path = finders.find(name)
    if not path:
        return name
    stem, extension = splitext(name)
    return f"{stem}.{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]}{extension}"


@cache
def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


class StaticFiles(WhiteNoiseMiddleware):  # type: ignore[misc]
    """WhiteNoise with hashed names from memory, and each file sent in one piece.

    Under ASGI its file iterator would be read into memory anyway, with a warning for each file. Ours are small.
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
        answer = static_file.get_response(request.method, request.META)
        content = b""
        if answer.file is not None:
            with answer.file as file:
                content = file.read()
        response = HttpResponse(content, status=int(answer.status), headers=dict(answer.headers))
        if response.headers.get("Content-Type", "").startswith(COMPRESSED):
            patch_vary_headers(response, ["Accept-Encoding"])
            takes_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
            if takes_gzip and response.status_code == 200 and len(content) >= LEAST_BYTES:
                response.content = _compressed(content)
                response.headers["Content-Encoding"] = "gzip"
                response.headers["Content-Length"] = str(len(response.content))
        return response
