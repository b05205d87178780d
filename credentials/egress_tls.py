"""TLS to providers: the system's certificate authorities, and those of STRAKE_CA_FILE."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

SETTING = "STRAKE_CA_FILE"
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


_prepared: list[ssl.SSLContext] = []


def prepare() -> None:
    """Load the certificate authorities for the next `client_context()`: before a fork, so that workers share them."""
    _prepared[:] = [client_context()]


def client_context() -> ssl.SSLContext:
    """Return a context for connections to providers. Certificates and names are verified."""
    if _prepared:
        return _prepared.pop()
    context = ssl.create_default_context()
    if settings.STRAKE_CA_CERTIFICATES:
        context.load_verify_locations(cadata=settings.STRAKE_CA_CERTIFICATES)
    return context


def read_certificates(path: str) -> str:
    """Return the certificates of a PEM file, without comments. Raises `ImproperlyConfigured`.

    They are read once, before the process gives up its access to files.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImproperlyConfigured(
            f"{SETTING} names {path}, which cannot be read: {error.strerror}. Fix the path or its permissions."
        ) from None
    certificates = b"\n".join(_CERTIFICATE.findall(data)).decode()
    try:
        ssl.create_default_context().load_verify_locations(cadata=certificates)
    except (ValueError, ssl.SSLError):
        raise ImproperlyConfigured(
            f"{SETTING} names {path}, which holds no certificates. It must be a PEM file: -----BEGIN CERTIFICATE-----…"
        ) from None
    return certificates
