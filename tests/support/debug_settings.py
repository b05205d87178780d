"""The most verbose settings: every logger at DEBUG, and error reports by email, as text and as HTML."""

from __future__ import annotations

from strake.settings import *  # noqa: F403
from strake.settings import LOGGING

ADMINS = [("Operator", "operator@example.org")]
LOGGING = {
    **LOGGING,
    "handlers": {
        **LOGGING["handlers"],  # type: ignore[dict-item]
        "mail": {"class": "django.utils.log.AdminEmailHandler", "level": "ERROR", "include_html": True},
    },
    "root": {"handlers": ["stderr", "mail"], "level": "DEBUG"},
    "loggers": {name: {**logger, "level": "DEBUG"} for name, logger in LOGGING["loggers"].items()},  # type: ignore[attr-defined]
}
