"""The usual settings with one connection to PostgreSQL for all threads of a process."""

from __future__ import annotations

from strake.settings import *  # noqa: F403
from strake.settings import DATABASES

DATABASES["default"]["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 1, "timeout": 5}
