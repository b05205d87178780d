"""Wrong tokens per client network: whoever sends very many is told to slow down.

Counted only when a token has been refused, in the process's own memory: requests with a valid token cost nothing and
are never held up by what their neighbours send. The count is for load and logs; 256 random bits are not guessed.
"""

from __future__ import annotations

import logging
from time import monotonic

from accounts.addresses import IPAddress
from accounts.limits import networks
from proxy.errors import TooManyWrongTokens

logger = logging.getLogger(__name__)

MOST = 120
WINDOW_SECONDS = 60
MOST_NETWORKS = 10_000


class Guesses:
    """Refused tokens by IPv4 address or IPv6 /64, in windows of a minute."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[float, int]] = {}

    def count(self, address: IPAddress | None) -> None:
        """Count a refused token. Raises `TooManyWrongTokens` from the 121st in a minute on.

        Loopback is not counted: it is a proxy in front that Strake was not told of, and its clients are many.
        """
        if address is None or address.is_loopback:
            return
        network, _ = networks(str(address))
        now = monotonic()
        since, number = self._windows.get(network, (now, 0))
        if now - since >= WINDOW_SECONDS:
            since, number = now, 0
        if network not in self._windows and len(self._windows) >= MOST_NETWORKS:
            self._windows.clear()  # forgetting is harmless, growing is not
        self._windows[network] = since, number + 1
        if number >= MOST:
            if number == MOST:
                logger.warning("wrong_tokens network=%s more_than=%d seconds=%d", network, MOST, WINDOW_SECONDS)
            raise TooManyWrongTokens(retry_after=max(1, round(since + WINDOW_SECONDS - now)))
