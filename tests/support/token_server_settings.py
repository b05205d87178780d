"""The usual settings, with a loopback server in place of every cloud's token server."""

from __future__ import annotations

import os

from strake.settings import *  # noqa: F403
from strake.settings import STRAKE_TOKEN_URLS as _REAL
from tests.support.token_urls import urls_on

STRAKE_TOKEN_URLS = urls_on(os.environ["TEST_TOKEN_SERVER"], _REAL)
