"""Typed readers for environment variables. An invalid value stops the process, and never means the default."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from accounts import secret_files

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class Secret(str):
    """A string with a masked `repr`, for settings, stack frames, and `manage.py diffsettings`.

    Pass `str(secret)` to libraries that check the exact type.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class Environment:
    """Reads one environment. Every reader raises `ImproperlyConfigured` with a message that says what to do."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self.values = os.environ if values is None else values

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name, "").strip() or default

    def present(self, *names: str) -> list[str]:
        """Return those of the variables that have a value."""
        return [name for name in names if self.text(name)]

    def number(self, name: str, default: int, *, low: int, high: int) -> int:
        raw = self.text(name)
        if not raw:
            return default
        if not raw.isascii() or not raw.isdigit() or len(raw) > 20 or not low <= int(raw) <= high:
            raise ImproperlyConfigured(f"{name} must be a whole number from {low} to {high}.")
        return int(raw)

    def choice(self, name: str, default: str, choices: Collection[str]) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise ImproperlyConfigured(f"{name} must be one of: {', '.join(sorted(filter(None, choices)))}.")
        return value

    def words(self, name: str) -> list[str]:
        """Return comma-separated words, without empty ones."""
        return [word for part in self.text(name).split(",") if (word := part.strip())]

    def secret(self, name: str) -> Secret | None:
        """Return the secret in the file `NAME_FILE`, or else in `NAME`. Other processes may read `NAME` in /proc.

        The file must not be exposed to others (`accounts.secret_files`).
        """
        path = self.text(f"{name}_FILE")
        if path:
            return _secret_from_file(f"{name}_FILE", Path(path))
        text = self.text(name)
        return Secret(text) if text else None

    def origin(self, name: str, default: str) -> SplitResult:
        """Return an origin, `scheme://host[:port]`. Plain http is for loopback only."""
        # A mistyped value can hold a password, so no message repeats it.
        raw = self.text(name, default)
        try:
            parts = urlsplit(raw.rstrip("/"))
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise ImproperlyConfigured(f"{name} is not a URL; it should look like https://strake.example.org") from None
        if parts.scheme not in {"http", "https"} or not host or parts.username or parts.password:
            raise ImproperlyConfigured(f"{name} must look like https://strake.example.org")
        if parts.path or parts.query or parts.fragment:
            raise ImproperlyConfigured(f"{name} must be an origin without a path, like https://strake.example.org")
        if parts.scheme == "http" and host not in LOOPBACK_HOSTS:
            raise ImproperlyConfigured(f"{name} must use https: plain http is for loopback only")
        return parts


def _secret_from_file(variable: str, path: Path) -> Secret:
    text = ""
    try:
        with path.open("rb") as file:
            problem = secret_files.exposure(path, os.fstat(file.fileno()), in_container=True)
            content = file.read()
        text = content.decode("utf-8-sig").strip()  # some editors write a byte order mark first
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}. Correct the path or its permissions."
    except UnicodeDecodeError:
        problem = f"{path} is not UTF-8 text. Save it as UTF-8."
    if problem:
        raise ImproperlyConfigured(f"{variable}: {problem}")
    return Secret(text)


def email_config(url: str) -> dict[str, Any]:
    """Return Django's email settings for `smtp://` (no TLS), `smtp+tls://` (STARTTLS) or `smtps://` (implicit TLS)."""
    parts = _service_url(
        url, "EMAIL_URL", {"smtp", "smtps", "smtp+tls"}, "smtp+tls://user:password@mail.example.org:587"
    )
    if not parts.hostname:
        raise ImproperlyConfigured("EMAIL_URL names no host.")
    return {
        "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "EMAIL_HOST": parts.hostname,
        "EMAIL_PORT": parts.port or {"smtp": 25, "smtp+tls": 587, "smtps": 465}[parts.scheme],
        "EMAIL_HOST_USER": unquote(parts.username or ""),
        "EMAIL_HOST_PASSWORD": Secret(unquote(parts.password or "")),
        "EMAIL_USE_TLS": parts.scheme == "smtp+tls",
        "EMAIL_USE_SSL": parts.scheme == "smtps",
        "EMAIL_TIMEOUT": 20,
    }


def redis_url(url: str) -> str:
    """Return the URL of a Redis server, `redis://` or `rediss://` (TLS). Raises `ImproperlyConfigured`."""
    example = "rediss://:password@redis.example.org:6379/0"
    # The first of these characters in a password ends the host part, so the @ comes after it.
    if "#" in url or re.search(r"[/?].*@", url.partition("://")[2]):
        raise ImproperlyConfigured(
            f"REDIS_URL should look like {example}. In the password, percent-encode special characters: # is %23, / is "
            "%2F, ? is %3F, @ is %40, % is %25."
        )
    parts = _service_url(url, "REDIS_URL", {"redis", "rediss"}, example)
    number = parts.path.removeprefix("/")
    if not parts.hostname or (number and not (number.isascii() and number.isdigit())):
        raise ImproperlyConfigured(f"REDIS_URL must name a host, and after / a number or nothing, like {example}")
    return url


def _service_url(url: str, name: str, schemes: set[str], example: str) -> SplitResult:
    # The value can hold a password, so no message repeats it.
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ImproperlyConfigured(f"{name} is not a URL; it should look like {example}") from None
    if parts.scheme not in schemes:
        raise ImproperlyConfigured(f"{name} should look like {example}")
    return parts
