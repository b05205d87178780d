"""Where to go after sign-in: paths of this site and nothing else."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.utils.http import url_has_allowed_host_and_scheme

MAX_LENGTH = 512


def own_path(text: str) -> str:
    """`text` if it is a path on this site that a browser cannot take for another origin, else an empty string."""
    if not text.startswith("/") or len(text) > MAX_LENGTH or not text.isascii() or not text.isprintable():
        return ""
    if "\\" in text or not url_has_allowed_host_and_scheme(text, allowed_hosts=None):
        return ""
    # Dot segments and empty ones are resolved by browsers, `/.//host` into `//host` by some.
    path = urlsplit(text).path
    if "//" in path or any(segment in {".", ".."} for segment in path.split("/")):
        return ""
    return text
