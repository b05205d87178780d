"""Serves proxy traffic: calls the view, sends what it returns, and records the request.

Not through Django's ASGI handler, which reads every request body into a temporary file before it calls a view, and
switches between threads for its signals.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import cast

from django.conf import settings

from proxy import websocket
from proxy.access import cors, route_lookup
from proxy.access.auth_throttle import AuthThrottle
from proxy.access.budgets import Budgets
from proxy.access.in_flight import InFlight
from proxy.access.origin_lists import AllowedOrigins
from proxy.access.rate_limits import LocalRateLimits, RateLimits
from proxy.access.route_lookup import Lookup
from proxy.descriptors import DescriptorWatch
from proxy.errors import ProxyError, StoreUnavailable, UpstreamInvalid, UpstreamUnreachable
from proxy.http.error_response import error_response
from proxy.http.request import ClientDisconnected, ProxyRequest
from proxy.http.response import (
    LINES_BELOW_A_MILLISECOND,
    LINES_IN_MILLISECONDS,
    PROTECTION,
    PROTECTION_LINES,
    Response,
    send_response,
)
from proxy.metrics import traffic
from proxy.metrics.traffic import add_own
from proxy.request_log.entries import CLOSED, OPENED, new_entry
from proxy.request_log.recorder import NANOSECONDS_IN_MILLISECOND, RequestLog, milliseconds_since
from proxy.server.exchange import Exchange
from proxy.server.interfaces import WebSocket
from proxy.upstream.connection import UpstreamBroken
from proxy.upstream.pool import ConnectionPool, UpstreamResponse
from proxy.upstream.renewals import Renewals
from proxy.views import forward

logger = logging.getLogger(__name__)

CLIENT_DISCONNECTED = 499  # as in nginx. It is recorded, but never sent.
UPSTREAM_BROKEN = "upstream_broken"  # recorded if the provider's response was cut short. There is no response with it.


class ProxyApplication:
    """Forwards requests. Holds what one process shares between them."""

    lookup: Lookup
    rate_limits: RateLimits
    budgets: Budgets
    auth_throttle: AuthThrottle
    origins: AllowedOrigins
    in_flight: InFlight
    pool: ConnectionPool
    renewals: Renewals
    request_log: RequestLog
    max_body_bytes: int

    async def startup(self) -> None:
        self._domain = settings.STRAKE_PROXY_DOMAIN
        self.max_body_bytes = settings.STRAKE_MAX_BODY_MB * 1024 * 1024
        self.lookup = route_lookup.from_settings()
        self.rate_limits = _rate_limits()
        self.auth_throttle = AuthThrottle()
        self.origins = AllowedOrigins(self.lookup)
        self.in_flight = InFlight()
        self._watch = asyncio.create_task(self.in_flight.watch(self.lookup))
        self._descriptors = asyncio.create_task(DescriptorWatch().run())
        self.pool = ConnectionPool()
        self.renewals = Renewals(self.pool)
        self.request_log = RequestLog()
        self.request_log.start()
        self.budgets = Budgets(self.request_log)

    async def shutdown(self) -> None:
        self._watch.cancel()
        self._descriptors.cancel()
        await self.budgets.close()
        await self.renewals.close()
        self.pool.close()
        await self.request_log.stop()
        await self.rate_limits.close()
        await self.lookup.close()

    async def handle(self, exchange: Exchange) -> None:
        """Forward a request, or refuse it."""
        started = time.time()
        clock = perf_counter_ns()
        request = ProxyRequest(exchange, self._domain)
        status, first_byte = 500, None
        try:
            if exchange.websocket is not None:
                opened = partial(self._opened, request, clock, started)
                status = await self._serve_websocket(request, exchange.websocket, opened)
            else:
                response = await self._respond(request)
                status, body = response.status, response.body
                elapsed = perf_counter_ns() - clock
                first_byte = elapsed // NANOSECONDS_IN_MILLISECOND
                lines = PROTECTION_LINES
                if type(body) is UpstreamResponse:
                    own = elapsed * 1e-9 - body.waited - request.waited
                    add_own(own)
                    if own >= 0.001:
                        lines = LINES_IN_MILLISECONDS % (own * 1000 + 0.5)
                    elif own > 0:
                        lines = LINES_BELOW_A_MILLISECOND % (own * 1_000_000)
                await send_response(response, exchange, more_lines=lines)
        except ClientDisconnected:
            status = CLIENT_DISCONNECTED
        except asyncio.CancelledError:
            if request.client_disconnected:
                status = CLIENT_DISCONNECTED
            elif (reason := request.ended) is not None:
                status = reason.status
                request.break_off()
            else:
                raise
        except (UpstreamBroken, ProxyError) as broken:
            request.error = broken.code if isinstance(broken, ProxyError) else UPSTREAM_BROKEN
            # The head has been sent. Returning before the end of the body makes the server break the connection off, so
            # that the client sees an incomplete response and not a short one.
            status = 502
        finally:
            flight = request.flight
            if flight is not None:
                self.in_flight.leave(flight)
                if flight.ended is not None:
                    request.error = flight.ended.code
                    traffic.ENDED.add(request.error)
            self._log(request, status, clock, first_byte, started)

    def _opened(self, request: ProxyRequest, clock: int, started: float) -> None:
        """Record the start of a WebSocket connection: its end may be days away."""
        self._log(request, 101, clock, milliseconds_since(clock), started, OPENED)
        request.opened = True

    def _log(
        self, request: ProxyRequest, status: int, clock: int, first_byte_ms: int | None, at: float, phase: str = ""
    ) -> None:
        """Record a request that was forwarded or whose client left before. Count one that was refused."""
        error, route = request.error, request.route
        is_refused = bool(error) and not request.forwarded
        if route is not None and route.budgets:
            self.budgets.end(request, is_recorded=not is_refused)
        if is_refused:
            self._count_refusal(request, at)
            return
        if route is None or route.token_id is None:
            return
        if request.opened:
            first_byte_ms, at, phase = None, time.time(), CLOSED
        latency_ms = (perf_counter_ns() - clock) // NANOSECONDS_IN_MILLISECOND
        entry = new_entry((route.endpoint_id, route.token_id, status, latency_ms, first_byte_ms, at, error, phase))
        self.request_log.add(entry)
        route.measure(entry)

    def _count_refusal(self, request: ProxyRequest, at: float) -> None:
        traffic.REFUSALS.add(request.error)
        route, refused = request.route, request.refused_token
        if refused is None and route is not None and route.token_id is not None:
            refused = route.endpoint_id, route.token_id
        if refused is not None:
            self.request_log.count_refusal(*refused, request.error, at)

    async def _respond(self, request: ProxyRequest) -> Response:
        """Return the response of the provider, or that of an error."""
        try:
            if request.method == "OPTIONS":
                preflight = await cors.answer_preflight(request, origins=self.origins, auth_throttle=self.auth_throttle)
                if preflight is not None:
                    return preflight
            response = await forward(request, self)
        except asyncio.CancelledError:
            if request.client_disconnected or (reason := request.ended) is None:
                raise
            response = self._refusal(reason, request)
        except Exception as error:  # noqa: BLE001  (an error's message may quote the request)
            response = self._refusal(self._error(error, request), request)
        if request.origin and await cors.may_read(request, origins=self.origins):
            cors.share(response.headers, request.origin)
        return response

    def _refusal(self, error: ProxyError, request: ProxyRequest) -> Response:
        response = _error_response(error, request)
        if request.has_unread_body or request.ended is not None:
            response.headers.append((b"connection", b"close"))
        return response

    def _error(self, error: Exception, request: ProxyRequest) -> ProxyError:
        """Return the error to respond with. Logs errors that are not `ProxyError`: they are defects."""
        if isinstance(error, ClientDisconnected):
            raise error
        if isinstance(error, ProxyError):
            if isinstance(error, UpstreamUnreachable | UpstreamInvalid):
                _log_failure(request, error)
            if isinstance(error, StoreUnavailable) and request.route is None:
                # So that, after an outage, owners see which of their tokens it has hit.
                request.refused_token = self.lookup.known(request.subdomain, request.digest)
            error = self.auth_throttle.refused(request, error)
        else:
            logger.error(
                "proxy_failed kind=%s where=%s",
                type(error).__name__,
                _locations(error),
                extra={"request_id": request.request_id},
            )
            error = ProxyError()
        request.error = error.code
        return error

    async def _serve_websocket(self, request: ProxyRequest, client: WebSocket, opened: Callable[[], None]) -> int:
        """Serve a connection from its handshake to its end. Returns the status of the handshake's response."""
        try:
            return await websocket.forward(request, client, self, opened=opened)
        except asyncio.CancelledError:
            request.exchange.client_left = client.disconnected
            if request.client_disconnected or (reason := request.ended) is None:
                raise
            response = _error_response(reason, request)
        except Exception as error:  # noqa: BLE001  (as above)
            response = _error_response(self._error(error, request), request)
        client.respond(response.status, response.headers + PROTECTION, cast(bytes, response.body))
        return response.status


def _rate_limits() -> RateLimits:
    """Return limits shared through Redis if it is configured, else limits of this process."""
    if not settings.REDIS_URL:
        return LocalRateLimits()
    from proxy.access.redis_rate_limits import RedisRateLimits  # its client library takes six megabytes

    return RedisRateLimits(settings.REDIS_URL)


def _error_response(error: ProxyError, request: ProxyRequest) -> Response:
    response = error_response(error, request.dialect)
    response.headers.append((b"x-request-id", request.request_id.encode()))
    return response


def _log_failure(request: ProxyRequest, error: UpstreamUnreachable | UpstreamInvalid) -> None:
    """Write which endpoint's provider failed, and how. The line has no host name and no address.

    The endpoint's page shows the destination. `strake.logs` counts the same failures of one endpoint.
    """
    if request.route is None:
        return
    kind = error.kind if isinstance(error, UpstreamUnreachable) else "not HTTP"
    logger.warning(
        "upstream_failed code=%s endpoint=%s kind=%s",
        error.code,
        request.subdomain,
        kind or "unknown",
        extra={"request_id": request.request_id},
    )


def _locations(error: BaseException) -> str:
    """Return the last four locations in an error's traceback, without its message, which may quote the request."""
    trace, locations = error.__traceback__, []
    while trace is not None:
        locations.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return ">".join(locations[-4:])
