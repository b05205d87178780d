"""Static files: served compressed, under URLs that contain a hash of the content, so that browsers cache them forever.

`collectstatic` is not needed, and there is no build step. A style sheet or script that imports others is served with
their contents in place of the imports, as one file. Each process reads, joins and hashes the few files once.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from functools import cache
from http import HTTPStatus
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
_CSS_IMPORT = re.compile(r'^@import "([\w./-]+)" layer\((\w+)\);\n', re.MULTILINE)
_JS_IMPORT = re.compile(r'^import (?:\{[^}]*\} from )?"\./([\w.-]+)";\n', re.MULTILINE)
_JS_EXPORT = re.compile(r"^export ", re.MULTILINE)


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
    return f"{stem}.{hashlib.sha256(joined(Path(path))).hexdigest()[:12]}{extension}"


@cache
def joined(path: Path) -> bytes:
    """The content of a file, with what a style sheet or an ECMAScript module imports in place of the imports.

    A module is included once, before the first that imports it. Its names become names of the joined module, so two
    modules with the same name in them are a syntax error.
    """
    if path.suffix == ".css":
        return _join_styles(path).encode()
    if path.suffix == ".js":
        return _join_modules(path, set()).encode()
    return path.read_bytes()


def _join_styles(path: Path) -> str:
    def layer(found: re.Match[str]) -> str:
        return f"@layer {found[2]} {{\n{_join_styles(path.parent / found[1])}}}\n"

    return _CSS_IMPORT.sub(layer, path.read_text())


def _join_modules(path: Path, included: set[Path]) -> str:
    included.add(path)

    def module(found: re.Match[str]) -> str:
        imported = path.parent / found[1]
        return "" if imported in included else _join_modules(imported, included)

    return _JS_EXPORT.sub("", _JS_IMPORT.sub(module, path.read_text()))


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
        meta = {name: value for name, value in request.META.items() if name != "HTTP_RANGE"}  # whole files only
        found = static_file.get_response(request.method, meta)
        response = HttpResponse(status=int(found.status), headers=dict(found.headers))
        content = b""
        if found.status == HTTPStatus.OK:
            content = joined(Path(static_file.get_path_and_headers(meta)[0]))
            response.headers["Content-Length"] = str(len(content))
        if found.file is not None:
            found.file.close()
            response.content = content
        if response.headers.get("Content-Type", "").startswith(COMPRESSED_TYPES):
            patch_vary_headers(response, ["Accept-Encoding"])
            accepts_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
            if accepts_gzip and response.content and len(content) >= MIN_COMPRESSED_BYTES:
                response.content = _compressed(content)
                response.headers["Content-Encoding"] = "gzip"
                response.headers["Content-Length"] = str(len(response.content))
        return response
