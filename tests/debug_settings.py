"""The settings of a person who wants to see everything: every logger at DEBUG, none of them silenced by its level."""

from __future__ import annotations

from strake.settings import *  # noqa: F403
from strake.settings import LOGGING

LOGGING = {
    **LOGGING,
    "root": {"handlers": ["stderr"], "level": "DEBUG"},
    "loggers": {**LOGGING["loggers"], "django": {"handlers": [], "level": "DEBUG", "propagate": True}},  # type: ignore[dict-item]
}
