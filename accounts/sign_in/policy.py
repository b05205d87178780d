"""Sign-in policy: who may sign up (`STRAKE_SIGNUP`), and which paths sign-in may redirect to."""

from __future__ import annotations

import re

from django.conf import settings
from django.utils.http import url_has_allowed_host_and_scheme

from accounts.addresses import normalise_email
from accounts.errors import InvalidEmail

MAX_NEXT_PATH_LENGTH = 512


def may_sign_up(email: str) -> bool:
    """Return whether a normalised email address without an account may get one."""
    words = {word.lower().removeprefix("@") for word in settings.STRAKE_SIGNUP}
    return "open" in words or email in words or email.rpartition("@")[2] in words


def errors() -> list[str]:
    """The mistakes in `STRAKE_SIGNUP`, as sentences. It is `open`, `closed`, or a list of domains and addresses."""
    words = [word.lower().removeprefix("@") for word in settings.STRAKE_SIGNUP]
    if {"open", "closed"}.intersection(words) and len(words) > 1:
        return ["It mixes open or closed with addresses. Use one of these words alone, or a list without them."]
    return [
        f"{word!r} is not open, closed, an email domain (example.org) or an email address (ann@example.org)."
        for word in words
        if word not in {"open", "closed"} and not _is_address(word if "@" in word else f"a@{word}")
    ]


def safe_next_path(text: str) -> str:
    """Return `text` if it is a path that no browser takes for another origin, else an empty string."""
    if not text.startswith("/") or len(text) > MAX_NEXT_PATH_LENGTH or not text.isascii() or not text.isprintable():
        return ""
    if "\\" in text or not url_has_allowed_host_and_scheme(text, allowed_hosts=None):
        return ""
    # Browsers resolve dot segments and empty segments. Some turn `/.//host` into `//host`.
    # Not `urlsplit`, which takes a leading `//` for an empty host and leaves it out of the path.
    path = re.split(r"[?#]", text, maxsplit=1)[0]
    if "//" in path or any(segment in {".", ".."} for segment in path.split("/")):
        return ""
    return text


def _is_address(text: str) -> bool:
    try:
        normalise_email(text)
    except InvalidEmail:
        return False
    return True
