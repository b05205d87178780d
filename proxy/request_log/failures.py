"""Lines in the log about providers that could not be reached: the kind of failure, and of which endpoint."""

from __future__ import annotations

import logging
from time import monotonic
from uuid import UUID

from proxy.errors import UpstreamInvalid, UpstreamUnreachable
from proxy.http.request import ProxyRequest

logger = logging.getLogger(__name__)

REPEAT_SECONDS = 60.0
MAX_KNOWN = 1000


class FailureLog:
    """Writes one line a minute for each endpoint and error, so that nobody can fill the log by asking again.

    Beyond `MAX_KNOWN` of them in a minute, there are no more lines. A line has no host name and no address: the
    endpoint's page shows the destination.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[UUID, str], float] = {}

    def log(self, request: ProxyRequest, error: UpstreamUnreachable | UpstreamInvalid) -> None:
        route = request.route
        if route is None:
            return
        now, key = monotonic(), (route.endpoint_id, error.code)
        if self._known.get(key, now) > now:
            return
        if len(self._known) >= MAX_KNOWN:
            self._known = {known: until for known, until in self._known.items() if until > now}
            if len(self._known) >= MAX_KNOWN:
                return
        self._known[key] = now + REPEAT_SECONDS
        kind = error.kind if isinstance(error, UpstreamUnreachable) else "not HTTP"
        logger.warning("upstream_failed code=%s endpoint=%s kind=%s", error.code, request.subdomain, kind or "unknown")
