"""The most verbose settings: every logger at DEBUG, and error reports by email, as text and as HTML."""

from __future__ import annotations

import os

from strake.settings import *  # noqa: F403
from strake.settings import LOGGING
from strake.settings import STRAKE_TOKEN_URLS as _REAL
from tests.support.token_urls import urls_on

if "TEST_TOKEN_SERVER" in os.environ:
    STRAKE_TOKEN_URLS = urls_on(os.environ["TEST_TOKEN_SERVER"], _REAL)

ADMINS = [("Operator", "operator@example.org")]
LOGGING = {
    **LOGGING,
    "handlers": {
        **LOGGING["handlers"],
        "mail": {"class": "django.utils.log.AdminEmailHandler", "level": "ERROR", "include_html": True},
    },
    "root": {"handlers": ["stderr", "mail"], "level": "DEBUG"},
    "loggers": {name: {**logger, "level": "DEBUG"} for name, logger in LOGGING["loggers"].items()},
}
