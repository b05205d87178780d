"""What the server runs."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from proxy.server.exchange import Exchange


class Application(Protocol):
    """What the server runs for every request."""

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Respond to a request. A response that is not complete at the end is broken off."""
